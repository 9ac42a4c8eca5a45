// Messages with one contact: what was said, and where what was sent is now.

import { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import { api, peerOf } from '../api'
import type { Message } from '../api'
import { useJob } from '../desk'
import type { Desk } from '../desk'
import { stamp } from '../format'
import { Ghosts } from '../lazy'
import { pathKind } from '../path'
import { Badge, nameOf } from '../people'
import type { Contact } from '../status'
import { fill, pick, plural, words } from '../words'
import { Name, Rich } from '../words/rich'
import { Problem } from './parts'

const w = words.talk

// The longest message, in bytes of UTF-8.
export const longestBytes = 800
// The room left is told from here on.
const tellBytes = 700

export const bytesIn = (text: string) => new TextEncoder().encode(text).length

type Props = { with: Contact; now: number; desk: Desk }

export function Talk({ with: c, now, desk }: Props) {
  const { messages, complete, load, failed, add } = useMessages(c)
  const fresh = useFresh(c, complete ? messages : null)
  const name = <Name of={nameOf(c)} />
  const label = fill(w.with, { name: nameOf(c) })
  return (
    <section class="sec" id="talk" aria-labelledby="h-talk">
      <div class="sec-head">
        <h2 id="h-talk"><span class="vh">{w.title} </span>{name}</h2>
        <Badge kind={pathKind(c)} rtt={c.rtt_ms} />
      </div>
      <div class="panel talk-panel">
        {failed && <div class="btns"><p class="bad small" role="alert">{failed}</p><button type="button" class="btn" onClick={load}>{words.again}</button></div>}
        {!messages && !failed && <Ghosts rows={2} />}
        {messages?.length === 0 && <p class="soft"><Rich text={w.none} values={{ name }} /></p>}
        {messages && messages.length > 0 && <Said all={messages} fresh={fresh} label={label} name={name} now={now} desk={desk} peer={c} />}
        <Say to={c} desk={desk} said={add} />
      </div>
    </section>
  )
}

const soonMS = 2000
const lateMS = 60_000

// pending says whether what was sent may still change its state.
export const pending = (m: Message) => m.out && (m.state === 'waiting' || m.state === 'stored')

// useMessages fetches when the live status hints at something new; and after
// ever longer waits while something sent is on its way, or nothing came.
function useMessages(c: Contact) {
  const [messages, set] = useState<Message[] | null>(null)
  const [failed, fail] = useState('')
  const [counted, count] = useState(0)
  const tries = useRef(0)
  const peer = peerOf(c)
  const unread = useRef(0)
  unread.current = c.unread
  const turn = useRef(0) // an answer that something newer has overtaken is dropped
  const load = useCallback(() => {
    if (document.hidden) return
    const told = unread.current
    const mine = ++turn.current
    api.messages(peer).then((all) => {
      fail('')
      if (mine !== turn.current) return
      count(told)
      set((was) => {
        if (was && same(was, all)) return was
        tries.current = 0
        return all
      })
    }, (e: Error) => fail(e.message))
  }, [peer])
  useEffect(() => {
    tries.current = 0
    load()
  }, [load, c.unread, c.online])
  const waits = failed !== '' || (messages?.some(pending) ?? false)
  useEffect(() => {
    if (!waits) return
    let timer = 0
    const again = () => {
      timer = window.setTimeout(() => { load(); again() }, Math.min(lateMS, soonMS * 2 ** tries.current++))
    }
    again()
    return () => clearTimeout(timer)
  }, [waits, load, messages])
  useEffect(() => {
    document.addEventListener('visibilitychange', load)
    return () => document.removeEventListener('visibilitychange', load)
  }, [load])
  const add = (m: Message) => {
    tries.current = 0
    turn.current++
    set((was) => [...(was ?? []).filter((x) => x.id !== m.id), m])
  }
  // Else the status tells of some that have not come yet.
  const complete = counted >= c.unread
  useRead(c, complete ? messages : null, load)
  return { messages, complete, failed, load, add }
}

const same = (a: Message[], b: Message[]) =>
  a.length === b.length && a.every((m, i) => m.id === b[i]!.id && m.state === b[i]!.state)

// A message that comes while the last are being marked may leave the count of
// the status as it was: so this much later the page looks again.
const lookAgainMS = 1500

// useRead marks messages as read once their end is seen.
function useRead(c: Contact, messages: Message[] | null, load: () => void) {
  const marked = useRef('')
  const newest = [...(messages ?? [])].reverse().find((m) => !m.out)?.id ?? ''
  const unread = c.unread > 0
  useEffect(() => {
    const end = document.querySelector('#talk .talk > li:last-child')
    if (!end || !newest || (!unread && !marked.current) || marked.current === newest) return
    let timer = 0
    const seen = new IntersectionObserver((all) => {
      if (document.hidden || !all.some((one) => one.isIntersecting)) return
      seen.disconnect()
      marked.current = newest
      api.read(peerOf(c)).catch(() => { marked.current = '' }) // the next look tries again
      timer = window.setTimeout(load, lookAgainMS)
    })
    seen.observe(end)
    return () => {
      seen.disconnect()
      clearTimeout(timer)
    }
  }, [newest, unread, messages?.length])
}

// useFresh is the first message that was not read when it came: a line stands
// above it until another contact is chosen.
function useFresh(c: Contact, messages: Message[] | null): string {
  const first = useRef<string | null>(null)
  if (messages && c.unread > 0 && !first.current) {
    const came = messages.filter((m) => !m.out)
    first.current = came[Math.max(0, came.length - c.unread)]?.id ?? null
  }
  return first.current ?? ''
}

type SaidProps = { all: Message[]; fresh: string; label: string; name: preact.ComponentChildren; now: number; desk: Desk; peer: Contact }

// Said stays at its end while new messages come, unless somebody scrolled up.
function Said({ all, fresh, label, name, now, desk, peer }: SaidProps) {
  const ref = useRef<HTMLDivElement>(null)
  const atEnd = useRef(true)
  const last = all[all.length - 1]
  const shown = useRef('')
  useLayoutEffect(() => {
    const sent = last?.out && shown.current !== last.id
    shown.current = last?.id ?? ''
    if (ref.current && (atEnd.current || sent)) ref.current.scrollTop = ref.current.scrollHeight
  })
  const scrolled = (e: Event) => {
    const box = e.currentTarget as HTMLElement
    atEnd.current = box.scrollHeight - box.scrollTop - box.clientHeight < 40
  }
  return (
    <div class="said" role="log" aria-label={label} tabIndex={0} ref={ref} onScroll={scrolled}>
      <ul class="talk">
        {all.map((m) => (
          <li key={m.id} class={m.out ? 'mine' : undefined}>
            {m.id === fresh && <span class="fresh">{w.fresh}</span>}
            <div>
              <bdi class="text">{cutText(m.text)}</bdi>
              <small>
                {m.out ? <span class="vh">{w.mine} · </span> : <>{name} · </>}
                {stamp(m.unix_ms, now)}
                {m.out && m.state && <> · <Rich text={stateOf(m.state)} values={{ peer: name }} /></>}
              </small>
              {m.state === 'expired' && (
                <button type="button" class="btn bare" onClick={() => begin(desk, peer, m.text)}>{w.again}</button>
              )}
            </div>
          </li>
        ))}
      </ul>
    </div>
  )
}

// stateOf tells where a message is, also with a state this page does not know.
export const stateOf = (state: string) => pick<string>(w.states, state) ?? w.sending

// cutText bounds what is drawn; no letter takes less than a byte.
export const cutText = (text: string) => (text.length > longestBytes ? [...text].slice(0, longestBytes).join('') : text)

function begin(desk: Desk, c: Contact, text: string) {
  desk.begin({ drafts: { ...desk.begun.drafts, [c.address]: text } })
  document.getElementById('message')?.focus()
}

function Say({ to: c, desk, said }: { to: Contact; desk: Desk; said: (m: Message) => void }) {
  const text = desk.begun.drafts[c.address] ?? ''
  const job = useJob()
  const set = (value: string) => desk.begin({ drafts: { ...desk.begun.drafts, [c.address]: value } })
  const left = longestBytes - bytesIn(text.trim())
  const ready = text.trim() !== '' && left >= 0 && !job.busy
  const send = async (e: Event) => {
    e.preventDefault()
    if (ready && await job.run(async () => said(await api.send(peerOf(c), text.trim())))) set('')
  }
  const key = (e: KeyboardEvent) => {
    if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) void send(e)
  }
  const room = left < 0 ? fill(plural(w.over, -left), { n: -left }) : left <= longestBytes - tellBytes ? fill(plural(w.left, left), { n: left }) : ''
  return (
    <form class="say-it" onSubmit={send}>
      <label class="vh" for="message">{fill(w.label, { name: nameOf(c) })}</label>
      <textarea
        id="message" rows={1} value={text} placeholder={fill(w.label, { name: nameOf(c) })} dir="auto" enterkeyhint="send"
        aria-invalid={left < 0} aria-describedby="room" onInput={(e) => set(e.currentTarget.value)} onKeyDown={key}
      />
      <button class="btn main" aria-disabled={!ready}>{w.send}</button>
      <small id="room" class={left < 0 ? 'bad' : 'soft'} aria-live="polite">{room}</small>
      <Problem of={job} />
    </form>
  )
}
