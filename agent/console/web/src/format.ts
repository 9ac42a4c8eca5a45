// Numbers, times and addresses as people read them. A number and its unit are
// joined by a no-break space.

const nb = '\u00a0'
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0, useGrouping: false })
const tenth = new Intl.NumberFormat('en', { minimumFractionDigits: 1, maximumFractionDigits: 1, useGrouping: false })

const byteUnits = ['bytes', 'kB', 'MB', 'GB', 'TB', 'PB']

function scaled(n: number): { value: number; unit: number } {
  let value = Math.max(0, Number.isFinite(n) ? n : 0)
  let unit = 0
  // 999.5 would round to 1000 of the smaller unit
  while (value >= 999.5 && unit < byteUnits.length - 1) {
    value /= 1000
    unit++
  }
  return { value, unit }
}

function figure(value: number, unit: number): string {
  return unit === 0 || value >= 9.95 ? whole.format(value) : tenth.format(value)
}

// bytes: 1234567 → "1.2 MB".
export function bytes(n: number): string {
  const { value, unit } = scaled(n)
  return figure(value, unit) + nb + byteUnits[unit]
}

// bytesOf: 1.2e9 of 2.8e9 → ["1.2", "2.8 GB"], the first in the unit of the second.
export function bytesOf(done: number, total: number): [string, string] {
  const { unit } = scaled(total)
  const value = Math.max(0, done) / 1000 ** unit
  return [figure(value, unit), bytes(total)]
}

// rate: 3100000 → "3.1 MB/s".
export function rate(perSecond: number): string {
  const { value, unit } = scaled(perSecond)
  return figure(value, unit) + nb + (unit === 0 ? 'B' : byteUnits[unit]) + '/s'
}

// roundTrip: 18.4 → "18 ms"; "" when unknown.
export function roundTrip(ms: number): string {
  return ms > 0 ? whole.format(Math.max(1, Math.round(ms))) + nb + 'ms' : ''
}

// span rounds a duration as far as anybody cares: 20 s, 4 min, 1 h, 3 days.
export function span(ms: number): string {
  const s = Math.max(0, ms) / 1000
  if (s < 9.5) return whole.format(Math.max(1, Math.round(s))) + nb + 's'
  if (s < 57.5) return whole.format(Math.round(s / 5) * 5) + nb + 's'
  const min = Math.round(s / 60)
  if (min < 60) return whole.format(min) + nb + 'min'
  const h = Math.round(s / 3600)
  if (h < 48) return whole.format(h) + nb + 'h'
  return whole.format(Math.round(s / 86400)) + nb + 'days'
}

// countdown is exact to the second, for waits that somebody watches.
export function countdown(ms: number): string {
  const s = Math.ceil(Math.max(0, ms) / 1000)
  if (s < 60) return s + nb + 's'
  return Math.ceil(s / 60) + nb + 'min'
}

// timeLeft is exact to the second throughout: "9 min 12 s".
export function timeLeft(ms: number): string {
  const s = Math.ceil(Math.max(0, ms) / 1000)
  const rest = (s % 60) + nb + 's'
  return s < 60 ? rest : Math.floor(s / 60) + nb + 'min ' + rest
}

// Checks that confirm a verdict are told once a minute at most.
const justNow = 65e3
const week = 7 * 86400e3

// ago: relative up to a week, then a date.
export function ago(unixMS: number, nowMS: number): string {
  const past = nowMS - unixMS
  if (past < justNow) return 'just now'
  if (past < week) return span(past) + ' ago'
  return new Date(unixMS).toLocaleDateString('en', { day: 'numeric', month: 'short', year: 'numeric' })
}

// clock: the time of day, "22:41".
export function clock(unixMS: number): string {
  return new Date(unixMS).toLocaleTimeString('en', { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
}

// stamp: the time of day, and the date of what is not of today.
export function stamp(unixMS: number, nowMS: number): string {
  const day = (ms: number) => new Date(ms).toDateString()
  if (day(unixMS) === day(nowMS)) return clock(unixMS)
  return new Date(unixMS).toLocaleDateString('en', { day: 'numeric', month: 'short' }) + ', ' + clock(unixMS)
}

// addressGroups splits an address into eight groups of seven.
export function addressGroups(address: string): string[] {
  return address.match(/.{1,7}/g) ?? []
}

// percent of done in total, 0 to 100, whole.
export function percent(done: number, total: number): number {
  return total > 0 ? Math.min(100, Math.max(0, Math.floor((done / total) * 100))) : 0
}
