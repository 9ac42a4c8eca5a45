// What the pages share beyond the live status: the sentence at the bottom,
// what is about to be removed, the owner's devices, and what was begun on the
// page about people, for as long as nobody logs out.

import type { ComponentChildren } from 'preact'
import { useCallback, useEffect, useRef, useState } from 'preact/hooks'
import { api } from './api'
import type { Devices } from './api'
import type { Status } from './status'
import type { Toast } from './toast'

export type Begun = {
  peer: string // whose messages are shown, by address
  drafts: Record<string, string> // what was typed, by address
  code: { code: string; link: string; until: number; known: string[] } | null
}

export type Desk = {
  show: (t: Toast) => void
  // vanish hides somebody at once and has it done when Undo has run out.
  vanish: (key: string, say: ComponentChildren, done: () => Promise<unknown>) => void
  // fail tells of what could not be done where its place on the page is gone.
  fail: (e: Error) => void
  devices: Devices | null | undefined // undefined before the first answer, null if there was none
  setDevices: (d: Devices) => void
  loadDevices: () => Promise<void>
  begun: Begun
  begin: (change: Partial<Begun>) => void
}

const contactKey = (address: string) => 'contact ' + address
const requestKey = (address: string) => 'request ' + address
export const keys = { contact: contactKey, request: requestKey }

// useVanish hides what is being removed from the status until it is gone, or
// comes back because it was taken back or could not be done.
export function useVanish(status: Status | null, show: (t: Toast) => void) {
  const [hidden, setHidden] = useState<string[]>([])
  const [trouble, setTrouble] = useState('')
  const fail = useCallback((e: Error) => setTrouble(e.message), [])
  const back = (key: string) => setHidden((all) => all.filter((k) => k !== key))
  const vanish = useCallback((key: string, say: ComponentChildren, done: () => Promise<unknown>) => {
    setHidden((all) => [...all, key])
    setTrouble('')
    const after = () => done().catch((e: Error) => {
      back(key)
      fail(e)
    })
    show({ say, undo: () => back(key), after })
  }, [])
  useEffect(() => {
    if (status && hidden.length > 0) {
      const left = present(status, hidden)
      if (left.length < hidden.length) setHidden(left)
    }
  }, [status])
  return { status: status && without(status, hidden), vanish, fail, trouble, clear: () => setTrouble('') }
}

function present(s: Status, all: string[]): string[] {
  const there = new Set([...s.contacts.map((c) => contactKey(c.address)), ...s.requests.map((r) => requestKey(r.address))])
  return all.filter((k) => there.has(k))
}

// without is the status as if somebody were gone already.
export function without(s: Status, hidden: string[]): Status {
  if (hidden.length === 0) return s
  return {
    ...s,
    contacts: s.contacts.filter((c) => !hidden.includes(contactKey(c.address))),
    requests: s.requests.filter((r) => !hidden.includes(requestKey(r.address))),
  }
}

const watchedMS = 15_000
const invitedMS = 3000

// useDevices asks for the owner's devices at first and when the owner changes;
// from time to time while the page about people is seen, and often while an
// invitation is open.
export function useDevices(status: Status | null, watched: boolean, invited: boolean) {
  const [devices, set] = useState<Devices | null | undefined>(undefined)
  const load = useCallback(() => api.devices().then(set, () => set((was) => was ?? null)), [])
  const owner = status?.owner
  useEffect(() => {
    if (owner !== undefined) void load()
  }, [owner, watched])
  const every = invited ? invitedMS : watchedMS
  useEffect(() => {
    if (!watched) return
    const timer = setInterval(() => { if (!document.hidden) void load() }, every)
    return () => clearInterval(timer)
  }, [watched, every])
  return { devices, setDevices: set, loadDevices: load }
}

// useBegun keeps what was begun while the page about people is away.
export function useBegun() {
  const [begun, set] = useState<Begun>({ peer: '', drafts: {}, code: null })
  const begin = useCallback((change: Partial<Begun>) => set((was) => ({ ...was, ...change })), [])
  return { begun, begin }
}

export type Job = {
  busy: boolean
  trouble: string
  // run does one thing at a time and tells whether it could be done.
  run: (what: () => Promise<unknown>) => Promise<boolean>
}

// useJob is one action of the page with its error beside it.
export function useJob(): Job {
  const [busy, setBusy] = useState(false)
  const [trouble, setTrouble] = useState('')
  const going = useRef(false)
  const run = async (what: () => Promise<unknown>) => {
    if (going.current) return false
    going.current = true
    setBusy(true)
    setTrouble('')
    try {
      await what()
      return true
    } catch (e) {
      setTrouble((e as Error).message)
      return false
    } finally {
      going.current = false
      setBusy(false)
    }
  }
  return { busy, trouble, run }
}
