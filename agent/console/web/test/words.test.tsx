import type { VNode } from 'preact'
import { expect, test } from 'vitest'
import { letterOf } from '../src/signs'
import { neighbours } from '../src/street'
import type { Contact } from '../src/status'
import { fill, plural } from '../src/words'
import { cut, Rich } from '../src/words/rich'

test('braces are filled, unknown ones stay', () => {
  expect(fill('{a} and {b}', { a: 'x{b}' })).toBe('x{b} and {b}')
})

test('plurals', () => {
  const forms = { one: 'one', other: 'many' }
  expect([0, 1, 2].map((n) => plural(forms, n))).toEqual(['many', 'one', 'many'])
})

test('a name is cut at 40 letters, not in the middle of one', () => {
  expect(cut('a'.repeat(40))).toBe('a'.repeat(40))
  expect([...cut('😀'.repeat(41))]).toHaveLength(40)
  expect(cut('😀'.repeat(41))).toBe('😀'.repeat(39) + '…')
})

test('a house shows the first letter, whatever comes before it', () => {
  expect(['alice', '\u202e<i', ' 7 dwarfs', '灯', '…', ''].map(letterOf)).toEqual(['A', 'I', '7', '灯', '?', '?'])
})

test('stars and braces in a filled value stay text', () => {
  const flat = (n: unknown): string => {
    if (Array.isArray(n)) return n.map(flat).join('')
    if (n && typeof n === 'object') {
      const v = n as VNode<{ children?: unknown }>
      return (v.type === 'b' ? '<b>' : '') + flat(v.props.children) + (v.type === 'b' ? '</b>' : '')
    }
    return n === undefined || n === null || n === false ? '' : String(n)
  }
  expect(flat(Rich({ text: '*Now:* {peer} waits', values: { peer: '*{x}*' } }))).toBe('<b>Now:</b> *{x}* waits')
})

test('the street shows seven at most, on-line first, nobody blocked, no own devices', () => {
  const c = (name: string, change: Partial<Contact> = {}) =>
    ({ name, address: name, role: 'friend', blocked: false, online: false, last_seen_unix_ms: 0, ...change }) as Contact
  const all = [c('a'), c('b', { online: true }), c('c', { blocked: true, online: true }), c('d', { role: 'me', online: true }), c('e', { last_seen_unix_ms: 5 })]
  expect(neighbours(all).map((n) => n.name)).toEqual(['b', 'e', 'a'])
  expect(neighbours(Array.from({ length: 9 }, (_, i) => c('n' + i)))).toHaveLength(7)
})
