import type { ComponentChildren } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { api } from '../api'
import type { Service } from '../api'
import type { Desk } from '../desk'
import { keys, useJob } from '../desk'
import { ago } from '../format'
import { grantsOf, namedIn } from '../grants'
import { nameOf, RowButton, trafficOf, Way } from '../people'
import { Sign } from '../signs'
import type { Contact, Member, Status } from '../status'
import { fill, words } from '../words'
import { Name, Rich } from '../words/rich'
import { Field, Problem, Role, roleName } from './parts'

const w = words.contacts

type Props = { of: Contact; status: Status; services: Service[]; now: number; desk: Desk }

// ContactRow opens in place: what they may do, what they see, their devices,
// and what can be done about them.
export function ContactRow({ of: c, status, services, now, desk }: Props) {
  const [open, setOpen] = useState(false)
  const toggle = () => {
    if (!open) desk.begin({ peer: c.address })
    setOpen(!open)
  }
  return (
    <li>
      <RowButton of={c} now={now} open={open} toggle={toggle} />
      {open && <Opened of={c} status={status} services={services} now={now} desk={desk} />}
    </li>
  )
}

function Opened({ of: c, status, services, now, desk }: Props) {
  const name = <Name of={nameOf(c)} />
  return (
    <div class="opened">
      <May of={c} name={name} status={status} services={services} />
      {(c.devices.length > 1 || c.devices.some((d) => d.name)) && <TheirDevices of={c.devices} now={now} />}
      <SeesMe of={c} name={name} />
      <Change of={c} name={name} status={status} services={services} desk={desk} />
      <Way of={c} />
      {c.sent_bytes + c.received_bytes > 0 && <p class="small soft">{trafficOf(c)}</p>}
    </div>
  )
}

function May({ of: c, name, status, services }: { of: Contact; name: ComponentChildren; status: Status; services: Service[] }) {
  const g = grantsOf(c, status.shares, services)
  const lines: [string, string[]][] = [
    [w.read, g.read], [w.write, g.write],
    [w.open, g.open.map((s) => fill(w.service, { name: s.name, network: s.network.toUpperCase() }))],
  ]
  const some = lines.filter(([, things]) => things.length > 0)
  return (
    <div class="sec tight">
      <h3><Rich text={w.may} values={{ name }} /></h3>
      {some.length === 0
        ? <p class="small soft">{w.nothing}</p>
        : <ul class="may">{some.map(([text, things]) => <li key={text}><Sign of="check" /><span><Rich text={text} values={{ things: <Things of={things} /> }} /></span></li>)}</ul>}
    </div>
  )
}

// Things lists names in bold: A, B and C.
function Things({ of: all }: { of: string[] }) {
  const { and, comma } = words.list
  return <>{all.map((one, i) => <span key={one}>{i > 0 && (i === all.length - 1 ? and : comma)}<b><Name of={one} /></b></span>)}</>
}

function TheirDevices({ of: devices, now }: { of: Member[]; now: number }) {
  const p = words.people
  return (
    <div class="sec tight">
      <h3>{w.devices}</h3>
      <ul class="small theirs">
        {devices.map((d) => (
          <li key={d.address}>
            {d.name ? <Name of={d.name} /> : w.noName}
            <span class="soft"> · {d.online ? p.here : d.last_seen_unix_ms > 0 ? fill(p.seen, { when: ago(d.last_seen_unix_ms, now) }) : p.never}</span>
          </li>
        ))}
      </ul>
    </div>
  )
}

// SeesMe moves at once and comes back if the device refuses.
function SeesMe({ of: c, name }: { of: Contact; name: ComponentChildren }) {
  const [wish, setWish] = useState<boolean | null>(null)
  const job = useJob()
  useEffect(() => { if (!c.hidden === wish) setWish(null) }, [c.hidden, wish])
  const change = async (e: Event) => {
    const box = e.currentTarget as HTMLInputElement
    if (job.busy) {
      box.checked = !box.checked
      return
    }
    setWish(box.checked)
    if (!await job.run(() => api.hide(c, !box.checked))) setWish(null)
  }
  return (
    <div>
      <label class="switch">
        <span>{w.seesMe}<small><Rich text={w.seesMeSay} values={{ name }} /></small></span>
        <input type="checkbox" role="switch" checked={wish ?? !c.hidden} onChange={change} />
      </label>
      <Problem of={job} />
    </div>
  )
}

type ChangeProps = { of: Contact; name: ComponentChildren; status: Status; services: Service[]; desk: Desk }

function Change({ of: c, name, status, services, desk }: ChangeProps) {
  const [renaming, setRenaming] = useState(false)
  const job = useJob()
  const say = (text: string, values = {}) => <Rich text={text} values={{ name, ...values }} />
  // A bare address keeps the hints of the link that is known.
  const setRole = (role: string) => job.run(async () => {
    const was = c.role
    await api.add(c.address, c.name, role, '')
    desk.show({
      say: say(w.roleNow, { role: roleName(role) }),
      undo: () => void api.add(c.address, c.name, was, '').catch(desk.fail),
    })
  })
  const block = () => job.run(async () => {
    await api.block(c, true)
    desk.show({ say: say(w.blocked), undo: () => void api.block(c, false).catch(desk.fail) })
  })
  const remove = () => desk.vanish(keys.contact(c.address), say(w.removed), () => api.remove(c))
  const write = () => {
    desk.begin({ peer: c.address })
    // The box appears with the talk, which is drawn after this.
    setTimeout(() => document.getElementById('message')?.focus())
  }
  return (
    <div class="sec">
      {c.name && <Role label={w.role} value={c.role} set={setRole} own={c.role === 'me'} />}
      {renaming
        ? <Rename of={c} warn={namedIn(c.name, status.shares, services)} done={() => setRenaming(false)} />
        : (
          <div class="btns">
            <button type="button" class="btn" onClick={write}>{w.message}</button>
            <button type="button" class="btn" onClick={() => setRenaming(true)}>{w.rename}</button>
            <button type="button" class="btn" onClick={remove}>{w.remove}</button>
            <button type="button" class="btn harm" onClick={block}>{w.block}</button>
          </div>
        )}
      <Problem of={job} />
    </div>
  )
}

function Rename({ of: c, warn, done }: { of: Contact; warn: boolean; done: () => void }) {
  const [name, set] = useState(c.name)
  const job = useJob()
  const submit = async (e: Event) => {
    e.preventDefault()
    if (name === c.name || await job.run(() => api.add(c.address, name, c.role, ''))) done()
  }
  return (
    <form onSubmit={submit}>
      <Field label={w.newName} value={name} set={set} hint={warn ? fill(w.renameGrants, { name: c.name }) : w.nameRule} />
      <div class="btns">
        <button class="btn main" aria-disabled={job.busy || !name}>{w.save}</button>
        <button type="button" class="btn" onClick={done}>{w.cancel}</button>
      </div>
      <Problem of={job} />
    </form>
  )
}
