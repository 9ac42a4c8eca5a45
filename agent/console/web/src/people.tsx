import { useState } from 'preact/hooks'
import { ago, bytes, roundTrip } from './format'
import { pathKind } from './path'
import type { PathKind } from './path'
import { Address } from './share'
import { House, letterOf, Sign, Tile } from './signs'
import type { Contact, Member, Request } from './status'
import { fill, pick, plural, words } from './words'
import { cut, Name, Rich } from './words/rich'

const w = words.people

// People lists every contact with the path to it, its round trip and traffic.
export function People({ contacts, now, share }: { contacts: Contact[]; now: number; share: () => void }) {
  return (
    <section class="sec" aria-labelledby="h-people">
      <div class="sec-head">
        <h2 id="h-people">{w.title}</h2>
        <a href="#people" class="small">{w.all}</a>
      </div>
      {contacts.length === 0
        ? <Nobody share={share} />
        : <ul class="rows people">{contacts.map((c) => <Row key={c.address} of={c} now={now} />)}</ul>}
    </section>
  )
}

export function Nobody({ share }: { share: () => void }) {
  return (
    <div class="panel empty">
      <House letter="" lit={false} />
      <b>{w.empty}</b>
      <p class="soft">{w.emptySay}</p>
      <button type="button" class="btn" onClick={share}><Sign of="qr" />{words.share.button}</button>
    </div>
  )
}

// Asked is the one thing worth knowing on Home: who wants to be a contact.
export function Asked({ of: requests }: { of: Request[] }) {
  if (requests.length === 0) return null
  return (
    <section class="note" aria-label={words.requests.section}>
      <Sign of="people" />
      <div class="aside">
        <p><b>{fill(plural(words.requests.waiting, requests.length), { n: requests.length })}</b></p>
        <a class="btn" href="#people">{words.requests.look}</a>
      </div>
    </section>
  )
}

// nameOf is a contact's name, or the beginning of its address.
export const nameOf = (c: { name: string; address: string }) => c.name || c.address.slice(0, 7) + '…'

function Row({ of: c, now }: { of: Contact; now: number }) {
  const [open, setOpen] = useState(false)
  return (
    <li>
      <RowButton of={c} now={now} open={open} toggle={() => setOpen(!open)} traffic />
      {open && <Way of={c} />}
    </li>
  )
}

type RowProps = { of: Contact; now: number; open: boolean; toggle: () => void; traffic?: boolean }

// RowButton is one contact: a button that opens what lies behind the badge.
export function RowButton({ of: c, now, open, toggle, traffic = false }: RowProps) {
  const kind = pathKind(c)
  const name = nameOf(c)
  const reason = reasonOf(c, kind)
  const moved = traffic && c.sent_bytes + c.received_bytes > 0
  return (
    <button type="button" class="row" aria-expanded={open} onClick={toggle}>
      <span class="pic">{c.role === 'me' ? <Tile lit={c.online} /> : <House letter={letterOf(cut(name))} lit={c.online} />}</span>
      <span class="what">
        <b><Name of={name} />{c.unread > 0 && <Unread n={c.unread} />}</b>
        <small><Rich text={secondLine(c, now)} values={{ device: <Name of={deviceOf(c)?.name ?? ''} /> }} /></small>
      </span>
      <Badge kind={kind} rtt={c.rtt_ms} />
      <Sign of="open" class="turn" />
      {(reason || moved) && (
        <span class="path">
          {reason && <small><Rich text={reason} values={{ peer: <Name of={name} /> }} /></small>}
          {moved && <small class="num">{trafficOf(c)}</small>}
        </span>
      )}
    </button>
  )
}

function Unread({ n }: { n: number }) {
  return (
    <>
      {' '}<span class="badge new" aria-hidden="true">{fill(plural(w.unread, n), { n })}</span>
      <span class="vh">, {fill(plural(w.unreadLong, n), { n })}</span>
    </>
  )
}

export const trafficOf = (c: Contact) => fill(w.traffic, { sent: bytes(c.sent_bytes), received: bytes(c.received_bytes) })

// Way is where packets go, and to whose address.
export function Way({ of: c }: { of: Contact }) {
  const way = { local: c.local, remote: c.remote }
  return (
    <dl class="facts open">
      <div><dt>{w.way}</dt><dd class="mono" dir="ltr">{c.local && c.remote ? fill(w.wayBetween, way) : w.noWay}</dd></div>
      <div><dt>{w.address}</dt><dd><Address of={c.address} /></dd></div>
    </dl>
  )
}

// deviceOf is the device that a contact is on-line with, or was seen at last:
// told of a person with several only.
export function deviceOf(c: Contact): Member | undefined {
  if (c.devices.length < 2) return undefined
  const [latest] = [...c.devices].sort((a, b) => Number(b.online) - Number(a.online) || b.last_seen_unix_ms - a.last_seen_unix_ms)
  return latest?.online === c.online && latest.name ? latest : undefined
}

// secondLine says who somebody is and whether they are here; {device} in it is
// the name of deviceOf.
export function secondLine(c: Contact, now: number): string {
  if (c.blocked) return w.blocked
  const parts = [c.role === 'me' ? w.me : c.role === 'friend' ? w.friend : w.other]
  if (c.devices.length > 1) parts.push(fill(plural(w.devices, c.devices.length), { n: c.devices.length }))
  const standing = pick<string>(words.standing, c.standing)
  if (standing) parts.push(standing)
  if (c.online) parts.push(deviceOf(c) ? w.hereAt : w.here)
  else if (c.last_seen_unix_ms > 0) parts.push(fill(w.seen, { when: ago(c.last_seen_unix_ms, now) }))
  else if (!standing) parts.push(w.never)
  return parts.join(' · ')
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
