import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { pathKind } from '../src/path'
import { reasonOf, secondLine } from '../src/people'
import type { Contact } from '../src/status'
import { hostPort, verdictOf } from '../src/verdict'
import { words } from '../src/words'

const device = { name: 'Attic Pi', listen: '192.168.1.23:41641' }

// The codes as the device writes them.
function codesOf(type: string): string[] {
  const source = readFileSync(new URL('../../../api/codes.go', import.meta.url), 'utf8')
  return [...source.matchAll(new RegExp(`${type}\\s+= "(\\w+)"`, 'g')), ...source.matchAll(new RegExp(`\\s${type} = "(\\w+)"`, 'g'))].map((m) => m[1]!)
}

test('every verdict of the interface has words', () => {
  const codes = codesOf('Verdict')
  expect(codes.length).toBeGreaterThan(10)
  expect(codes.filter((c) => !(c in words.verdicts))).toEqual([])
})

test('every reason of the interface has words', () => {
  const codes = codesOf('Reason')
  expect(codes.length).toBeGreaterThan(6)
  expect(codes.filter((c) => !(c in words.reasons))).toEqual([])
})

test('no verdict leaves a brace or shouts', () => {
  for (const code of Object.keys(words.verdicts)) {
    const v = verdictOf({ ...device, reachability: code })
    const all = v.head + v.say + v.todo
    expect(all, code).not.toMatch(/[{}!]|undefined/)
    expect(v.head, code).toMatch(/[.…]$/)
  }
})

test.each([
  ['public', 'on', 'People you trust can reach Attic Pi directly, from anywhere. It has its own public address.'],
  ['forwarded', 'on', 'People you trust can reach Attic Pi directly, from anywhere. The port you opened at your router leads to it.'],
  ['nat_easy', 'help', 'Your router lets nobody in first. A helper introduces callers; after that they talk to Attic Pi directly.'],
  ['udp_blocked', 'help', 'This network blocks what direct paths need (UDP). Everything goes through helpers, encrypted. Slower, but it works.'],
  ['no_helper', 'off', 'Attic Pi is on the internet, but found nobody to introduce callers.'],
  ['checking', 'check', 'This takes a few seconds. What worked before goes on working.'],
])('%s lights the lamp %s', (reachability, lamp, say) => {
  expect(verdictOf({ ...device, reachability })).toMatchObject({ lamp, say })
})

test('what is not known is said in general words', () => {
  const v = verdictOf({ name: '', listen: '0.0.0.0:41641', reachability: 'map_lies' })
  expect(v.todo).toBe('*To need no help:* restart your router. If that is not enough, forward UDP port 41641 to this device by hand.')
  expect(verdictOf({ name: '', listen: '', reachability: 'no_network' }).head).toBe('This device has no network.')
})

test('a code from the future is no bad news', () => {
  expect(verdictOf({ ...device, reachability: 'toString' }).lamp).toBe('check')
  expect(verdictOf({ ...device, reachability: 'brand_new' }).lamp).toBe('check')
})

test.each([
  ['192.168.1.2:4001', '192.168.1.2', '4001'], ['[fd00::2]:4001', 'fd00::2', '4001'], [':4001', '', '4001'], ['', '', ''], ['[::1', '', ''],
])('%s splits', (s, host, port) => expect(hostPort(s)).toEqual({ host, port }))

const contact: Contact = {
  name: 'Alice', address: 'a', role: 'friend', blocked: false, online: true, last_seen_unix_ms: 0, path: 'direct',
  local: 'srflx 44.128.0.7:1', remote: 'host 192.168.1.4:1', rtt_ms: 18, reason: '', sent_bytes: 0, received_bytes: 0,
}

test.each<[string, Partial<Contact>, string, string]>([
  ['direct', {}, 'direct', ''],
  ['same home', { local: 'host 192.168.1.2:1' }, 'home', ''],
  ['same home over IPv6', { local: 'host [fe80::1]:1', remote: 'host [fd00::2]:1' }, 'home', ''],
  ['hosts with public addresses', { local: 'host 44.1.1.1:1', remote: 'host 172.32.0.1:1' }, 'direct', ''],
  ['relayed', { path: 'relay', reason: 'both_random' }, 'relay', words.reasons.both_random],
  ['relayed, reason unknown', { path: 'relay', reason: 'new_code' }, 'relay', words.noReason],
  ['relayed at first', { path: 'relay', reason: 'trying' }, 'looking', words.reasons.trying],
  ['no path yet', { path: '', reason: '' }, 'looking', words.reasons.trying],
  ['gone', { online: false, path: 'direct' }, 'off', ''],
  ['blocked', { blocked: true }, 'blocked', ''],
])('path: %s', (_, change, kind, reason) => {
  const c = { ...contact, ...change }
  expect(pathKind(c)).toBe(kind)
  expect(reasonOf(c, pathKind(c))).toBe(reason)
})

test('the second line says role and when somebody was last here', () => {
  const now = 10 * 86_400_000
  expect(secondLine(contact, now)).toBe('friend')
  expect(secondLine({ ...contact, online: false }, now)).toBe('friend · not seen yet')
  expect(secondLine({ ...contact, role: 'me', online: false, last_seen_unix_ms: now - 2 * 86_400_000 }, now)).toBe('yours · last seen 2\u00a0days ago')
  expect(secondLine({ ...contact, blocked: true }, now)).toBe('blocked, sees nothing')
})
