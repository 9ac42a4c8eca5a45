import { expect, test } from 'vitest'
import { backOff, nothing, reduce } from '../src/live'
import { parseNetcheck } from '../src/netcheck'
import type { Status, Transfer } from '../src/status'
import { parseStatus } from '../src/status'

const empty = { name: 'Attic Pi', traffic: { sent_bytes: 0, received_bytes: 0, relayed_bytes: 0 }, transfers: [] as Transfer[] }
const status = (change: object = {}) => parseStatus(JSON.stringify({ ...empty, ...change })) as Status
const transfer = (id: string) => ({ id, name: id, direction: 'in', peer: 'p', bytes: 1, total_bytes: 2, bytes_per_second: 1 })
const relayed = (n: number) => status({ traffic: { ...empty.traffic, relayed_bytes: n } })

test('a status replaces the one before', () => {
  const a = reduce(nothing, { kind: 'status', status: status(), now: 1000 })
  const b = reduce(a, { kind: 'status', status: status({ name: 'Barn' }), now: 2000 })
  expect(b.status?.name).toBe('Barn')
  expect(b.at).toBe(2000)
})

test('while the device is away the last status stays, and the time of the first miss', () => {
  let live = reduce(nothing, { kind: 'status', status: status(), now: 1000 })
  live = reduce(live, { kind: 'away', now: 5000 })
  live = reduce(live, { kind: 'away', now: 9000 })
  expect(live).toMatchObject({ awaySince: 5000, at: 1000 })
  expect(live.status?.name).toBe('Attic Pi')
  expect(reduce(live, { kind: 'status', status: status(), now: 9500 }).awaySince).toBe(0)
})

test('what is known of the network stays until something else is', () => {
  const known = parseNetcheck('{"verdict":"nat_easy"}')
  expect(nothing.netcheck).toBeUndefined()
  let live = reduce(nothing, { kind: 'netcheck', netcheck: null })
  expect(live.netcheck).toBeNull()
  live = reduce(live, { kind: 'netcheck', netcheck: known })
  live = reduce(live, { kind: 'netcheck', netcheck: null })
  live = reduce(live, { kind: 'status', status: status(), now: 1000 })
  live = reduce(live, { kind: 'away', now: 2000 })
  expect(live.netcheck).toBe(known)
})

test('a transfer keeps the time it appeared until it is gone', () => {
  let live = reduce(nothing, { kind: 'status', status: status({ transfers: [transfer('a')] }), now: 1000 })
  live = reduce(live, { kind: 'status', status: status({ transfers: [transfer('a'), transfer('b')] }), now: 2000 })
  expect(live.firstSeen).toEqual({ a: 1000, b: 2000 })
  live = reduce(live, { kind: 'status', status: status(), now: 3000 })
  expect(live.firstSeen).toEqual({})
})

test('packets count as passed on only when the figure grows', () => {
  let live = reduce(nothing, { kind: 'status', status: relayed(500), now: 1000 })
  expect(live.relayedAt).toBe(0)
  live = reduce(live, { kind: 'status', status: relayed(900), now: 2000 })
  expect(live.relayedAt).toBe(2000)
  live = reduce(live, { kind: 'status', status: relayed(0), now: 3000 }) // restarted
  expect(live.relayedAt).toBe(2000)
})

test('absent lists are empty lists', () => {
  const s = parseStatus('{"contacts":null,"helpers":null,"transfers":null,"shares":null,"requests":null}')
  expect([s.contacts, s.helpers, s.transfers, s.shares, s.requests]).toEqual([[], [], [], [], []])
  expect(parseStatus('{"contacts":[{"name":"a","devices":null}]}').contacts[0]).toMatchObject({ devices: [], unread: 0 })
})

test('the wait doubles from one second to thirty, half of it by chance', () => {
  expect([0, 1, 2, 3, 4, 5, 40].map((n) => backOff(n, 1))).toEqual([1000, 2000, 4000, 8000, 16_000, 30_000, 30_000])
  expect(backOff(3, 0)).toBe(4000)
  expect(backOff(3, 0.5)).toBe(6000)
})
