import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { parseNetcheck } from '../src/netcheck'
import { pathKind } from '../src/path'
import { reasonOf } from '../src/people'
import type { Contact } from '../src/status'
import { hostPort, plain, verdictOf } from '../src/verdict'
import { words } from '../src/words'

const device = { name: 'Attic Pi', listen: '192.168.1.23:41641' }

// The codes as the device writes them.
function codesOf(type: string, file = 'api/codes.go'): string[] {
  const source = readFileSync(new URL('../../../' + file, import.meta.url), 'utf8')
  return [...source.matchAll(new RegExp(`\\s${type}\\s+= "([\\w-]+)"`, 'g'))].map((m) => m[1]!)
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

test('every proof of the interface has words', () => {
  const codes = codesOf('Proof')
  expect(codes.length).toBe(3)
  expect(codes.filter((c) => !(c in words.proofs))).toEqual([])
})

test('every outcome and method of asking the router has words', () => {
  for (const [type, table] of [['Outcome', words.outcomes], ['Method', words.methods]] as const) {
    const codes = codesOf(type, '../nat/portmap/mapping.go')
    expect(codes.length).toBeGreaterThan(3)
    expect(codes.filter((c) => !(c in table))).toEqual([])
  }
})

test('the browser test knows the headline of every verdict', () => {
  const heads = JSON.parse(readFileSync(new URL('../e2e/heads.json', import.meta.url), 'utf8'))
  expect(Object.keys(heads).sort()).toEqual(codesOf('Verdict').sort())
})

test('page and command line say the same', () => {
  const source = readFileSync(new URL('../../../cli/words.go', import.meta.url), 'utf8')
  const said = [...source.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map((m) => m[1]!)
  for (const [code, v] of Object.entries(words.verdicts)) {
    if (code === 'no_key') continue // the agent does not start without
    expect(said, code).toContain(v.head)
    expect(said, code).toContain(v.say)
    // What is to be done may name a command there.
    if (!['private', 'no_helper'].includes(code)) expect(said, code).toContain(v.todo.replaceAll('*', ''))
  }
  for (const text of [...Object.values(words.reasons), ...Object.values(words.doubt)]) expect(said).toContain(text)
})

test('no verdict leaves a brace or shouts', () => {
  for (const code of Object.keys(words.verdicts)) {
    for (const n of [null, network()]) {
      const v = verdictOf({ ...device, reachability: code }, n)
      const all = [v.head, v.say, v.todo].map((text) => plain(text, v.values))
      expect(all.join(), code).not.toMatch(/[{}!]|undefined/)
      expect(all[0], code).toMatch(/[.…]$/)
    }
  }
})

const network = (change: object = {}) => parseNetcheck(JSON.stringify({
  candidates: ['host 172.17.0.1:4001', 'host 192.168.1.23:4001', 'srflx 44.128.0.7:4001'],
  router: { address: '192.168.1.1' }, ...change,
}))
const mapped = (external: string, internal = '192.168.1.99:4001') =>
  [{ transport: 'tcp', internal: '192.168.1.98:1', external }, { transport: 'udp', internal: '[fd00::1]:1', external }, { transport: 'udp', internal, external }]

test.each<[string, string, ReturnType<typeof network> | null, string]>([
  ['nothing known', 'refused', null, '*To need no help:* allow UPnP for 192.168.1.23 at your router, or forward UDP port 41641 to it.'],
  ['the address nearest to the router', 'refused', network(), '*To need no help:* allow UPnP for 192.168.1.23 at 192.168.1.1, or forward UDP port 4001 to it.'],
  ['several addresses and no router', 'refused', network({ router: {} }), '*To need no help:* allow UPnP for 192.168.1.23 at your router, or forward UDP port 41641 to it.'],
  ['one address and no router', 'refused', network({ router: {}, candidates: ['host 10.1.1.1:1'] }), '*To need no help:* allow UPnP for 10.1.1.1 at your router, or forward UDP port 1 to it.'],
  ['the address that is mapped', 'map_lies', network({ router: { address: '192.168.1.1', mappings: mapped('44.1.1.1:1') } }),
    '*To need no help:* restart the router at 192.168.1.1. If that is not enough, forward UDP port 4001 to 192.168.1.99 by hand.'],
  ['a mapping for any address', 'map_lies', network({ router: { address: '192.168.1.1', mappings: mapped('44.1.1.1:1', '0.0.0.0:4001') } }),
    '*To need no help:* restart the router at 192.168.1.1. If that is not enough, forward UDP port 4001 to 192.168.1.23 by hand.'],
  ['a router with a name', 'no_internet', network({ router: { address: '192.168.1.1', name: 'Box' } }), '*To do:* look at the router at 192.168.1.1 (Box). We try again by ourselves.'],
])('what is to be done: %s', (_, reachability, n, todo) => {
  const v = verdictOf({ ...device, reachability }, n)
  expect(plain(v.todo, v.values)).toBe(todo)
})

test.each([
  ['10.0.0.12:41641', 'another one, where the first has the address 10.0.0.12'],
  ['44.1.1.1:41641', 'another one'],
  ['', 'another one'],
])('the outer of two routers, from %s', (external, outer) => {
  expect(verdictOf({ ...device, reachability: 'double_nat' }, network({ router: { mappings: mapped(external) } })).values.outer).toBe(outer)
})

test.each([
  ['192.168.1.1', 'http://192.168.1.1/'], ['fe80::1', 'http://[fe80::1]/'], ['44.1.1.1', undefined], ['', undefined],
  ['10.0.0.1@evil.example', undefined], ['192.168.1.1/x', undefined], ['fd00::1]@evil', undefined],
])('a link to the router at %s', (address, href) => {
  const v = verdictOf({ ...device, reachability: 'nat_easy' }, network({ router: { address } }))
  expect(v.router?.href).toBe(href)
  expect(v.upnp).toBe(href !== undefined)
})

test('the sheet is offered where UPnP would help', () => {
  const offered = Object.keys(words.verdicts).filter((reachability) => verdictOf({ ...device, reachability }, network()).upnp)
  expect(offered.sort()).toEqual(['ipv6_only', 'nat_easy', 'nat_hard', 'no_helper', 'refused'])
})

test('a doubt is told beside the verdict that stays', () => {
  const doubt = (reachability: string, n: object | null) => verdictOf({ ...device, reachability }, n && network(n)).doubt
  expect(doubt('mapped', { doubt: true })).toBe(words.doubt.on)
  expect(doubt('nat_easy', { doubt: true })).toBe(words.doubt.help)
  expect(doubt('mapped', {})).toBe('')
  expect(doubt('mapped', null)).toBe('')
  // The status is newer than the last netcheck.
  expect(verdictOf({ ...device, reachability: 'mapped', doubt: false }, network({ doubt: true })).doubt).toBe('')
  expect(verdictOf({ ...device, reachability: 'mapped', doubt: true }, null).doubt).toBe(words.doubt.on)
})

test('the answer of an older device is read', () => {
  expect(parseNetcheck('{"verdict":"nat_easy","helpers":null,"candidates":null}')).toMatchObject({
    doubt: false, doors: [], helpers: [], candidates: [], ports: { delta: 0 }, router: { address: '', name: '', outcomes: {}, mappings: [] },
  })
})

test.each([
  ['public', 'on', 'People you trust can reach Attic Pi directly, from anywhere. It has its own public address.'],
  ['forwarded', 'on', 'People you trust can reach Attic Pi directly, from anywhere. The port you opened at your router leads to it.'],
  ['nat_easy', 'help', 'Your router lets nobody in first. A helper introduces callers; after that they talk to Attic Pi directly.'],
  ['udp_blocked', 'help', 'This network blocks what direct paths need (UDP). Everything goes through helpers, encrypted. Slower, but it works.'],
  ['no_helper', 'off', 'Attic Pi is on the internet, but found nobody to introduce callers.'],
  ['checking', 'check', 'This takes a few seconds. What worked before goes on working.'],
])('%s lights the lamp %s', (reachability, lamp, say) => {
  const v = verdictOf({ ...device, reachability })
  expect([v.lamp, plain(v.say, v.values)]).toEqual([lamp, say])
})

test('what is not known is said in general words', () => {
  const todo = (listen: string) => {
    const v = verdictOf({ name: '', listen, reachability: 'map_lies' })
    return plain(v.todo, v.values)
  }
  expect(todo('0.0.0.0:41641')).toBe('*To need no help:* restart your router. If that is not enough, forward UDP port 41641 to this device by hand.')
  expect(todo('')).toBe('*To need no help:* restart your router. If that is not enough, forward its UDP port to this device by hand.')
  const v = verdictOf({ name: '', listen: '', reachability: 'no_network' })
  expect(plain(v.head, v.values)).toBe('This device has no network.')
})

test('a code from the future is no bad news', () => {
  expect(verdictOf({ ...device, reachability: 'toString' }).lamp).toBe('check')
  expect(verdictOf({ ...device, reachability: 'brand_new' }).lamp).toBe('check')
})

test.each([
  ['192.168.1.2:4001', '192.168.1.2', '4001'], ['[fd00::2]:4001', 'fd00::2', '4001'], [':4001', '', '4001'], ['', '', ''], ['[::1', '', ''],
])('%s splits', (s, host, port) => expect(hostPort(s)).toEqual({ host, port }))

const contact: Contact = {
  name: 'Alice', address: 'a', role: 'friend', blocked: false, hidden: false, standing: '', online: true, devices: [], unread: 0, last_seen_unix_ms: 0, path: 'direct',
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
