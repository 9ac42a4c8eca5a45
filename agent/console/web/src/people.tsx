import { useState } from 'preact/hooks'
import { ago, bytes, roundTrip } from './format'
import { pathKind } from './path'
import type { PathKind } from './path'
import { Address } from './share'
import { House, letterOf, Sign, Tile } from './signs'
import type { Contact } from './status'
import { fill, pick, words } from './words'
import { cut, Name, Rich } from './words/rich'

const w = words.people

// People lists every contact with the path to it, its round trip and traffic.
export function People({ contacts, now, share }: { contacts: Contact[]; now: number; share: () => void }) {
  return (
    <section class="sec" id="people" aria-labelledby="h-people">
      <div class="sec-head"><h2 id="h-people">{w.title}</h2></div>
      {contacts.length === 0
        ? <Nobody share={share} />
        : <ul class="rows people">{contacts.map((c) => <Row key={c.address} of={c} now={now} />)}</ul>}
    </section>
  )
}

function Nobody({ share }: { share: () => void }) {
  return (
    <div class="panel empty">
      <House letter="" lit={false} />
      <b>{w.empty}</b>
      <p class="soft">{w.emptySay}</p>
      <button type="button" class="btn" onClick={share}><Sign of="qr" />{words.share.button}</button>
    </div>
  )
}

// Row is one button that opens what lies behind the badge.
function Row({ of: c, now }: { of: Contact; now: number }) {
  const [open, setOpen] = useState(false)
  const kind = pathKind(c)
  const name = c.name || c.address.slice(0, 7) + '…'
  const reason = reasonOf(c, kind)
  const traffic = { sent: bytes(c.sent_bytes), received: bytes(c.received_bytes) }
  return (
    <li>
      <button type="button" class="row" aria-expanded={open} onClick={() => setOpen(!open)}>
        <span class="pic">{c.role === 'me' ? <Tile lit={c.online} /> : <House letter={letterOf(cut(name))} lit={c.online} />}</span>
        <span class="what">
          <b><Name of={name} /></b>
          <small>{secondLine(c, now)}</small>
        </span>
        <Badge kind={kind} rtt={c.rtt_ms} />
        <Sign of="open" class="turn" />
        <span class="path">
          {reason && <small><Rich text={reason} values={{ peer: <Name of={name} /> }} /></small>}
          {c.sent_bytes + c.received_bytes > 0 && <small class="num">{fill(w.traffic, traffic)}</small>}
        </span>
      </button>
      {open && <Details of={c} />}
    </li>
  )
}

function Details({ of: c }: { of: Contact }) {
  const way = { local: c.local, remote: c.remote }
  return (
    <dl class="facts open">
      <div><dt>{w.way}</dt><dd class="mono" dir="ltr">{c.local && c.remote ? fill(w.wayBetween, way) : w.noWay}</dd></div>
      <div><dt>{w.address}</dt><dd><Address of={c.address} /></dd></div>
    </dl>
  )
}

export function secondLine(c: Contact, now: number): string {
  if (c.blocked) return w.blocked
  const role = c.role === 'me' ? w.me : c.role === 'friend' ? w.friend : w.other
  if (c.online) return role
  const seen = c.last_seen_unix_ms > 0 ? fill(w.seen, { when: ago(c.last_seen_unix_ms, now) }) : w.never
  return role + ' · ' + seen
}

// reasonOf explains every path that is not direct, also with a code of a
// newer device that this page does not know.
export function reasonOf(c: Contact, kind: PathKind): string {
  if (kind !== 'relay' && kind !== 'looking') return ''
  return pick<string>(words.reasons, c.reason) ?? (kind === 'relay' ? words.noReason : words.reasons.trying)
}

const badgeSigns: Partial<Record<PathKind, string>> = {
  direct: 'M4 7h14M1.4 7a1.6 1.6 0 1 0 3.2 0 1.6 1.6 0 1 0-3.2 0M17.4 7a1.6 1.6 0 1 0 3.2 0 1.6 1.6 0 1 0-3.2 0',
  relay: 'M4 10.5 9 5M13 5l5 5.5M1.4 11a1.6 1.6 0 1 0 3.2 0 1.6 1.6 0 1 0-3.2 0M17.4 11a1.6 1.6 0 1 0 3.2 0 1.6 1.6 0 1 0-3.2 0M9 3.6a2 2 0 1 0 4 0 2 2 0 1 0-4 0',
  home: 'm3 7 8-5 8 5v5.5H3zM8.5 9.5h5',
}

export function Badge({ kind, rtt }: { kind: PathKind; rtt: number }) {
  const sign = badgeSigns[kind]
  const time = kind === 'direct' || kind === 'relay' || kind === 'home' ? roundTrip(rtt) : ''
  return (
    <span class={'badge ' + kind}>
      {sign && <svg class="i" viewBox="0 0 22 14" aria-hidden="true"><path d={sign} /></svg>}
      {words.path[kind]}{time && ' · ' + time}
    </span>
  )
}
