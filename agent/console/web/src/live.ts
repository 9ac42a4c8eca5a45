// The live status: one stream of events while the page is seen, with patience
// when the device is away. `reduce` is the whole logic of what is shown;
// `connect` only feeds it.

import type { Netcheck } from './netcheck'
import type { Status } from './status'
import { parseStatus } from './status'

export type Live = {
  status: Status | null
  netcheck?: Netcheck | null // absent until the first answer, null if there was none
  at: number // when status came, ms of this browser's clock
  awaySince: number // 0 while the stream is open
  relayedAt: number // when packets were last seen passing through, 0 if not yet
  firstSeen: Record<string, number> // transfer id → when it appeared
}

export type Event =
  | { kind: 'status'; status: Status; now: number }
  | { kind: 'netcheck'; netcheck: Netcheck | null }
  | { kind: 'away'; now: number }

export const nothing: Live = { status: null, at: 0, awaySince: 0, relayedAt: 0, firstSeen: {} }

export function reduce(was: Live, event: Event): Live {
  if (event.kind === 'away') return was.awaySince ? was : { ...was, awaySince: event.now }
  // What was known of the network stays until something else is.
  if (event.kind === 'netcheck') return { ...was, netcheck: event.netcheck ?? was.netcheck ?? null }
  const { status, now } = event
  const relayed = was.status !== null && status.traffic.relayed_bytes > was.status.traffic.relayed_bytes
  return {
    status,
    netcheck: was.netcheck,
    at: now,
    awaySince: 0,
    relayedAt: relayed ? now : was.relayedAt,
    firstSeen: Object.fromEntries(status.transfers.map((t) => [t.id, was.firstSeen[t.id] ?? now])),
  }
}

const firstWait = 1000
const longestWait = 30_000

// backOff is the wait before the n-th try in a row (from 0): 1 s doubling to
// 30 s, of which the second half is chance, so that pages do not come back in
// step. chance is from 0 to 1.
export function backOff(n: number, chance: number): number {
  const full = Math.min(longestWait, firstWait * 2 ** n)
  return full / 2 + (full / 2) * chance
}

const hiddenFor = 30_000

export type Hooks = {
  event: (e: Event) => void
  loggedOut: () => void
}

// connect keeps a stream open and returns what ends it.
export function connect(hooks: Hooks): () => void {
  let source: EventSource | undefined
  let timer = 0
  let hideTimer = 0
  let tries = 0
  let build = ''

  const stop = () => {
    source?.close()
    source = undefined
    clearTimeout(timer)
  }
  const again = () => {
    stop()
    hooks.event({ kind: 'away', now: Date.now() })
    timer = window.setTimeout(check, backOff(tries++, Math.random()))
  }
  // An EventSource does not say why it failed; the session does.
  const check = async () => {
    try {
      const answer = await fetch('/api/v1/session')
      const { state } = await answer.json()
      if (state === 'ok') open()
      else hooks.loggedOut()
    } catch {
      again()
    }
  }
  const open = () => {
    stop()
    const one = new EventSource('/api/v1/events')
    source = one
    one.addEventListener('hello', (e) => {
      const now = JSON.parse((e as MessageEvent).data).build
      if (build && build !== now) location.reload()
      build = now
    })
    one.addEventListener('status', (e) => {
      tries = 0
      hooks.event({ kind: 'status', status: parseStatus((e as MessageEvent).data), now: Date.now() })
    })
    one.onerror = again
  }
  const seen = () => {
    clearTimeout(hideTimer)
    if (document.hidden) hideTimer = window.setTimeout(stop, hiddenFor)
    else if (!source) {
      stop()
      open()
    }
  }

  document.addEventListener('visibilitychange', seen)
  open()
  return () => {
    document.removeEventListener('visibilitychange', seen)
    clearTimeout(hideTimer)
    stop()
  }
}
