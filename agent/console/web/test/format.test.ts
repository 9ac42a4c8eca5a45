import { describe, expect, test } from 'vitest'
import { addressGroups, ago, bytes, bytesOf, clock, countdown, percent, rate, roundTrip, span, stamp, timeLeft } from '../src/format'

// Shown with plain blanks; the page joins number and unit by no-break ones.
const plain = (s: string) => s.replaceAll('\u00a0', ' ')

describe('bytes', () => {
  test.each([
    [0, '0 bytes'], [999, '999 bytes'], [1000, '1.0 kB'], [1234567, '1.2 MB'], [9949999, '9.9 MB'], [9950000, '10 MB'],
    [999_499, '999 kB'], [999_500, '1.0 MB'], [41e9, '41 GB'], [2.8e12, '2.8 TB'], [5e18, '5000 PB'],
    [-1, '0 bytes'], [NaN, '0 bytes'], [Infinity, '0 bytes'],
  ])('%d is %s', (n, want) => expect(plain(bytes(n))).toBe(want))

  test('number and unit do not part', () => expect(bytes(1e6)).toBe('1.0\u00a0MB'))
})

test('a part is told in the unit of the whole', () => {
  expect(bytesOf(1.2e9, 2.8e9).map(plain)).toEqual(['1.2', '2.8 GB'])
  expect(bytesOf(4e6, 2.8e9).map(plain)).toEqual(['0.0', '2.8 GB'])
})

test.each([[0, '0 B/s'], [3.1e6, '3.1 MB/s'], [412_000, '412 kB/s']])('rate %d is %s', (n, want) => expect(plain(rate(n))).toBe(want))

test.each([[0, ''], [0.2, '1 ms'], [18.4, '18 ms'], [91.7, '92 ms']])('round trip %d is %s', (n, want) => expect(plain(roundTrip(n))).toBe(want))

test.each([
  [200, '1 s'], [4000, '4 s'], [18_000, '20 s'], [57_000, '55 s'], [58_000, '1 min'], [252_000, '4 min'],
  [3_600_000, '1 h'], [47 * 3_600_000, '47 h'], [49 * 3_600_000, '2 days'],
])('span of %d ms is %s', (ms, want) => expect(plain(span(ms))).toBe(want))

test.each([[40_000, '40 s'], [39_001, '40 s'], [61_000, '2 min']])('countdown of %d ms is %s', (ms, want) => expect(plain(countdown(ms))).toBe(want))

test('past times are relative up to a week, then a date', () => {
  const now = Date.UTC(2026, 5, 20, 12)
  expect(ago(now - 10_000, now)).toBe('just now')
  expect(plain(ago(now - 240_000, now))).toBe('4 min ago')
  expect(plain(ago(now - 6 * 86_400_000, now))).toBe('6 days ago')
  expect(ago(now - 8 * 86_400_000, now)).toBe('Jun 12, 2026')
})

test('the clock has two digits each', () => expect(clock(new Date(2026, 0, 1, 9, 5).getTime())).toBe('09:05'))

test('an address is eight groups of seven', () => {
  const address = 'q7mz4tj2kaewx5hnvr3ob6dsy4pcgulf2ie5ywqa3hktn7vxob6mzrcd'
  expect(addressGroups(address)).toHaveLength(8)
  expect(addressGroups(address).join('')).toBe(address)
  expect(addressGroups('')).toEqual([])
})

test.each([[0, 0, 0], [1, 3, 33], [999, 1000, 99], [5, 4, 100], [-1, 4, 0]])('%d of %d is %d %%', (a, b, want) => expect(percent(a, b)).toBe(want))

test.each([[552_000, '9 min 12 s'], [600_000, '10 min 0 s'], [59_001, '1 min 0 s'], [59_000, '59 s'], [0, '0 s'], [-5, '0 s']])('time left of %d ms is %s', (ms, want) => {
  expect(plain(timeLeft(ms))).toBe(want)
})

test('what is not of today is stamped with its date', () => {
  const at = new Date(2026, 5, 20, 9, 5).getTime()
  expect(stamp(at, new Date(2026, 5, 20, 23).getTime())).toBe('09:05')
  expect(stamp(at, new Date(2026, 5, 21, 0, 1).getTime())).toBe('Jun 20, 09:05')
})
