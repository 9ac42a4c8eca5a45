// The owner's devices, and the dialog that takes one out for good.

import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { api } from '../api'
import { useJob } from '../desk'
import type { Desk } from '../desk'
import { ago } from '../format'
import { Ghosts } from '../lazy'
import { pathKind } from '../path'
import { Badge } from '../people'
import { Address } from '../share'
import { Sign, Tile } from '../signs'
import type { Contact, Member, Status } from '../status'
import { focusOn } from '../toast'
import { fill, words } from '../words'
import { Name, Rich } from '../words/rich'
import { Problem } from './parts'

const w = words.devices

type Props = { status: Status; now: number; desk: Desk; row: (c: Contact) => ComponentChildren }

// OwnDevices lists those under the owner's key, and contacts that are the
// owner's without it.
export function OwnDevices({ status: s, now, desk, row }: Props) {
  const d = desk.devices
  const [losing, setLosing] = useState<Member | null>(null)
  const members = d?.devices ?? []
  const loose = s.contacts.filter((c) => c.role === 'me' && !c.blocked && !members.some((m) => m.address === c.address))
  return (
    <section class="sec" aria-labelledby="h-devices">
      <div class="sec-head"><h2 id="h-devices" tabIndex={-1}>{w.title}</h2></div>
      {d === undefined && <Ghosts rows={2} />}
      {d === null && (
        <div class="panel btns" role="alert">
          <p>{words.trouble.list}</p>
          <button type="button" class="btn" onClick={() => void desk.loadDevices()}>{words.again}</button>
        </div>
      )}
      {d !== undefined && members.length + loose.length > 0 && (
        <ul class="rows people">
          {members.map((m) => (
            <Row key={m.address} of={m} path={s.contacts.find((c) => c.address === m.address)} now={now} holdsKey={d?.holds_key ?? false} lose={setLosing} />
          ))}
          {loose.map(row)}
        </ul>
      )}
      {d && !d.owner && <p class="soft">{w.nobody}</p>}
      {d && d.owner && !d.holds_key && <p class="soft">{w.noKey}</p>}
      {losing && <Revoke of={losing} desk={desk} close={() => setLosing(null)} />}
    </section>
  )
}

const deviceName = (m: Member) => m.name || fill(w.unnamed, { address: m.address.slice(0, 7) + '…' })

type RowProps = { of: Member; path: Contact | undefined; now: number; holdsKey: boolean; lose: (m: Member) => void }

function Row({ of: m, path, now, holdsKey, lose }: RowProps) {
  const [open, setOpen] = useState(false)
  const p = words.people
  const on = m.this || m.online
  const seen = m.this ? w.this : on ? w.on : m.last_seen_unix_ms > 0 ? fill(p.seen, { when: ago(m.last_seen_unix_ms, now) }) : p.never
  return (
    <li>
      <button type="button" class="row" aria-expanded={open} onClick={() => setOpen(!open)}>
        <span class="pic"><Tile lit={on} /></span>
        <span class="what"><b><Name of={deviceName(m)} /></b><small>{seen}</small></span>
        {m.this ? <span class="badge new">{w.here}</span> : path && path.online === on ? <Badge kind={pathKind(path)} rtt={path.rtt_ms} /> : on ? <span class="badge">{w.on}</span> : <Badge kind="off" rtt={0} />}
        <Sign of="open" class="turn" />
      </button>
      {open && (
        <div class="opened">
          <Address of={m.address} />
          {m.this && holdsKey && <p class="small soft">{w.revokeNo}</p>}
          {!m.this && holdsKey && <div class="btns"><button type="button" class="btn harm" onClick={() => lose(m)}>{w.revoke}</button></div>}
        </div>
      )}
    </li>
  )
}

// Revoke says beforehand that it cannot be undone.
function Revoke({ of: m, desk, close }: { of: Member; desk: Desk; close: () => void }) {
  const ref = useRef<HTMLDialogElement>(null)
  const keep = useRef<HTMLButtonElement>(null)
  const job = useJob()
  useEffect(() => {
    ref.current?.showModal()
    keep.current?.focus()
  }, [])
  const name = <Name of={deviceName(m)} />
  const revoke = async () => {
    if (!await job.run(() => api.revoke(m.address))) return
    ref.current?.close()
    await desk.loadDevices()
    desk.show({ say: <Rich text={w.revoked} values={{ name }} /> })
    focusOn('h-devices')
  }
  return (
    <dialog class="dialog how" ref={ref} onClose={close} aria-labelledby="h-revoke">
      <h2 id="h-revoke"><Rich text={w.dialog} values={{ name }} /></h2>
      <p>{w.dialogSay}</p>
      <p><b>{w.dialogNo}</b></p>
      <Address of={m.address} />
      <div class="btns">
        <button type="button" class="btn" ref={keep} onClick={() => ref.current?.close()}>{w.keep}</button>
        <button type="button" class="btn harm" aria-disabled={job.busy} onClick={revoke}><Rich text={w.dialogDo} values={{ name }} /></button>
      </div>
      <Problem of={job} />
    </dialog>
  )
}

