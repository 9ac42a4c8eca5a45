import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { troubleOf } from '../src/api'
import type { Message, Service } from '../src/api'
import { keys, without } from '../src/desk'
import { grantsOf, namedIn, suggest } from '../src/grants'
import { deviceOf, secondLine } from '../src/people'
import { peerAmong } from '../src/people-page/page'
import { short } from '../src/people-page/requests'
import { bytesIn, cutText, pending, stateOf } from '../src/people-page/talk'
import { parseStatus } from '../src/status'
import type { Contact, Member, Share } from '../src/status'
import { fill, words } from '../src/words'

const day = 86_400_000
const now = 10 * day

const contact = (change: Partial<Contact> = {}): Contact => ({
  name: 'Alice', address: 'a', role: 'friend', blocked: false, hidden: false, standing: 'mutual', online: true, devices: [], unread: 0,
  last_seen_unix_ms: 0, path: 'direct', local: '', remote: '', rtt_ms: 18, reason: '', sent_bytes: 0, received_bytes: 0, ...change,
})
const member = (name: string, change: Partial<Member> = {}): Member =>
  ({ address: name, name, online: false, last_seen_unix_ms: 0, this: false, ...change })

// The words in quotes of the comment above a field, as the device writes them.
function codesOf(file: string, field: string): string[] {
  const source = readFileSync(new URL('../../../api/' + file, import.meta.url), 'utf8')
  const comment = new RegExp(`((?:\\s*//.*\\n)+)\\s*(?:\\w+ +\\w+.*\\n\\s*)?${field} +string`).exec(source)
  return [...(comment?.[1] ?? '').matchAll(/"(\w+)"/g)].map((m) => m[1]!)
}

test('every state of a message has words', () => {
  const codes = codesOf('people.go', 'State')
  expect(codes.sort()).toEqual(['delivered', 'expired', 'stored', 'waiting'])
  expect(codes.filter((c) => !(c in words.talk.states))).toEqual([])
  expect(stateOf('from_the_future')).toBe(words.talk.sending)
  expect(stateOf('toString')).toBe(words.talk.sending)
})

test('every standing has words', () => {
  const codes = codesOf('status.go', 'Standing')
  expect(codes.sort()).toEqual(['asked', 'mutual'])
  expect(codes.filter((c) => !(c in words.standing))).toEqual([])
})

test('what is sent may change its state until it came in or was given up', () => {
  const m = (out: boolean, state: string) => pending({ id: '1', peer: '', text: '', unix_ms: 0, out, state } satisfies Message)
  expect(['waiting', 'stored', 'delivered', 'expired'].map((s) => m(true, s))).toEqual([true, true, false, false])
  expect(m(false, '')).toBe(false)
})

test.each<[string, Partial<Contact>, string]>([
  ['on-line', {}, 'friend · on-line'],
  ['never seen', { online: false }, 'friend · not seen yet'],
  ['seen before', { role: 'me', online: false, last_seen_unix_ms: now - 2 * day }, 'yours · last seen 2\u00a0days ago'],
  ['asked', { role: '', online: false, standing: 'asked' }, 'can see public things only · asked, waiting for an answer'],
  ['a standing from the future', { standing: 'engaged' }, 'friend · on-line'],
  ['blocked', { blocked: true }, 'blocked, sees nothing'],
  ['one device', { devices: [member('PC', { online: true })] }, 'friend · on-line'],
  ['two devices', { devices: [member('phone'), member('PC', { online: true })] }, 'friend · 2 devices · on-line at PC'],
  ['two devices without names', { devices: [member(''), member('', { online: true })] }, 'friend · 2 devices · on-line'],
  ['two devices, both off', { online: false, last_seen_unix_ms: now - day / 2, devices: [member('x'), member('y')] }, 'friend · 2 devices · last seen 12\u00a0h ago'],
])('the second line of a contact: %s', (_, change, want) => {
  const c = contact(change)
  expect(fill(secondLine(c, now), { device: deviceOf(c)?.name ?? '' })).toBe(want)
})

test('the device told is the one seen last', () => {
  const c = contact({ online: false, devices: [member('old', { last_seen_unix_ms: 1 }), member('new', { last_seen_unix_ms: 2 })] })
  expect(deviceOf(c)?.name).toBe('new')
})

const share = (name: string, read: string[] | null, write: string[] | null = null): Share => ({ name, dir: '', read, write })
const service = (name: string, to: string[] | null): Service => ({ name, network: 'tcp', target: '', to })
const shares = [share('public', ['everybody']), share('films', ['friends'], ['Alice']), share('mine', ['me'], ['me']), share('hers', ['a']), share('none', null)]
const services = [service('22', ['me']), service('camera', ['Alice', 'friends']), service('door', null)]

test.each<[string, Partial<Contact>, string]>([
  ['a friend', {}, 'public films hers / films / camera'],
  ['one of the owner’s', { role: 'me', name: 'Pi', address: 'p' }, 'public films mine / mine / 22 camera'],
  ['somebody without a role', { role: '', name: 'Tree', address: 't' }, 'public /  / '],
  ['by address', { role: '', name: 'Tree' }, 'public hers /  / '],
  ['blocked', { blocked: true }, ' /  / '],
])('what may be done here by %s', (_, change, want) => {
  const g = grantsOf(contact(change), shares, services)
  expect([g.read.join(' '), g.write.join(' '), g.open.map((s) => s.name).join(' ')].join(' / ')).toBe(want)
})

test('what is given by name is found', () => {
  expect(namedIn('Alice', shares, [])).toBe(true)
  expect(namedIn('Alice', [], services)).toBe(true)
  expect(namedIn('Bob', shares, services)).toBe(false)
})

test.each([
  ['Lighthouse 7', 'Lighthouse-7'], ['  Bob’s  Pi ', 'Bobs-Pi'], ['Zoë', 'Zoë'], ['Zoe\u0308', 'Zoë'], ['灯台', '灯台'],
  ['\u202e<b>x</b>', 'b-x-b'], ['..', ''], ['', ''], ['me', ''], ['everybody', ''], ['😀', ''], ['a/b:c?d@e', 'a-b-c-d-e'],
  ['Alice', 'Alice-2'], ['W'.repeat(90), 'W'.repeat(37)],
])('the name suggested for %j is %j', (called, want) => expect(suggest(called, ['Alice'])).toBe(want))

test('a message is counted in bytes, and bounded when drawn', () => {
  expect(['', 'abc', 'é', '灯', '😀'].map(bytesIn)).toEqual([0, 3, 2, 3, 4])
  expect(cutText('x'.repeat(800))).toHaveLength(800)
  expect(cutText('x'.repeat(801))).toHaveLength(800)
  expect([...cutText('😀'.repeat(900))]).toHaveLength(800)
})

test('a note is cut at 280 letters', () => {
  expect(short('n'.repeat(280))).toBe('n'.repeat(280))
  expect([...short('😀'.repeat(281))]).toHaveLength(280)
})

test.each<[string, unknown, string, string]>([
  ['of the interface', { error: 'the disk is full; free 2 GB', code: 'failed' }, 'The disk is full; free 2 GB.', 'failed'],
  ['of the console', { error: 'login', message: 'Log in first: open the page.' }, 'Log in first: open the page.', 'login'],
  ['without words', {}, words.trouble.odd, ''],
  ['that is no JSON', null, words.trouble.odd, ''],
  ['with odd types', { error: 7, code: [] }, words.trouble.odd, ''],
  ['that is too long', { error: 'x'.repeat(400) }, 'X' + 'x'.repeat(298) + '…', ''],
])('a refusal %s', (_, said, line, code) => {
  const t = troubleOf(500, said)
  expect([t.message, t.code, t.status]).toEqual([line, code, 500])
})

test('what is being removed is hidden, requests and contacts apart', () => {
  const s = parseStatus(JSON.stringify({ contacts: [contact(), contact({ address: 'b' })], requests: [{ address: 'a' }] }))
  const hidden = without(s, [keys.contact('a')])
  expect(hidden.contacts.map((c) => c.address)).toEqual(['b'])
  expect(hidden.requests).toHaveLength(1)
  expect(without(s, [keys.request('a')]).requests).toEqual([])
  expect(without(s, [])).toBe(s)
})

test('messages are shown of who was chosen, wrote, or comes first', () => {
  const all = [contact({ address: 'pi', role: 'me' }), contact(), contact({ address: 'b', unread: 1 })]
  expect(peerAmong(all, 'a')?.address).toBe('a')
  expect(peerAmong(all, 'gone')?.address).toBe('b')
  expect(peerAmong(all.slice(0, 2), '')?.address).toBe('a')
  expect(peerAmong(all.slice(0, 1), '')?.address).toBe('pi')
  expect(peerAmong([], '')).toBeUndefined()
})

test('no word about people shouts or leaves an empty place', () => {
  const texts: string[] = []
  const walk = (v: unknown) => { if (typeof v === 'string') texts.push(v); else Object.values(v as object).forEach(walk) }
  for (const part of ['people', 'requests', 'roles', 'contacts', 'add', 'blocked', 'talk', 'devices', 'bring', 'trouble'] as const) walk(words[part])
  expect(texts.length).toBeGreaterThan(100)
  expect(texts.filter((t) => /!|oops|success|undefined/i.test(t) || t.trim() === '')).toEqual([])
})
