import { useState } from 'preact/hooks'
import { api } from '../api'
import type { Desk } from '../desk'
import { keys, useJob } from '../desk'
import { ago } from '../format'
import { suggest } from '../grants'
import { Address } from '../share'
import { Sign } from '../signs'
import type { Contact, Request } from '../status'
import { focusOn } from '../toast'
import { fill, plural, words } from '../words'
import { Name, Rich } from '../words/rich'
import { Field, Problem, Role } from './parts'

const w = words.requests

// As many are shown at once; the others follow when these are answered.
const most = 5
const longestNote = 280

type Props = { contacts: Contact[]; now: number; desk: Desk }

// Requests are strangers' words: text, cut, with the address beside them.
export function Requests({ of: all, ...props }: Props & { of: Request[] }) {
  if (all.length === 0) return null
  const rest = all.length - most
  return (
    <div class="asks">
      {all.slice(0, most).map((r) => <Ask key={r.address} of={r} {...props} />)}
      {rest > 0 && <p class="soft small">{fill(plural(w.more, rest), { n: rest })}</p>}
    </div>
  )
}

function Ask({ of: r, contacts, now, desk }: Props & { of: Request }) {
  const [name, setName] = useState(() => suggest(r.name, contacts.map((c) => c.name)))
  const [role, setRole] = useState('friend')
  const job = useJob()
  const id = 'ask-' + r.address
  const shown = <Name of={r.name || w.somebody} />
  const accept = async (e: Event) => {
    e.preventDefault()
    if (!name || !await job.run(() => api.accept(r.address, name, role))) return
    desk.show({ say: <Rich text={w.accepted} values={{ name: <Name of={name} /> }} /> })
    desk.begin({ peer: r.address })
    focusOn('h-contacts')
  }
  const refuse = () => desk.vanish(keys.request(r.address), <Rich text={w.refused} values={{ name: shown }} />, () => api.refuse(r.address))
  const block = () => job.run(async () => {
    await api.block(r, true)
    await api.refuse(r.address).catch(() => {}) // gone with the block, maybe
    desk.show({ say: <Rich text={w.blocked} values={{ name: shown }} /> })
    focusOn('h-contacts')
  })
  const same = contacts.some((c) => c.name.toLowerCase() === r.name.trim().toLowerCase() && c.address !== r.address)
  return (
    <section class="note" aria-labelledby={id}>
      <Sign of="people" />
      <div class="sec">
        <p>
          <b id={id}>{w.head}</b>{' '}
          {r.name ? <Rich text={w.called} values={{ name: shown }} /> : w.nameless}{' '}
          {same && <><Rich text={w.same} values={{ name: shown }} />{' '}</>}
          {w.know}
        </p>
        {r.note && <blockquote><span class="vh">{w.note} </span><bdi>{short(r.note)}</bdi></blockquote>}
        <Address of={r.address} />
        <form onSubmit={accept}>
          <div class="pair">
            <Field label={w.name} value={name} set={setName} />
            <Role label={w.role} value={role} set={setRole} />
          </div>
          <div class="btns">
            <button class="btn main" aria-disabled={job.busy || !name}>{role === 'friend' ? w.acceptFriend : w.accept}</button>
            <button type="button" class="btn" onClick={refuse}>{w.refuse}</button>
            <button type="button" class="btn bare" onClick={block}>{w.block}</button>
            {r.received_unix_ms > 0 && <span class="small soft">{ago(r.received_unix_ms, now)}</span>}
          </div>
          <Problem of={job} />
        </form>
      </div>
    </section>
  )
}

// short cuts a note where it is longer than anybody needs to introduce himself.
export function short(note: string): string {
  const letters = [...note]
  return letters.length > longestNote ? letters.slice(0, longestNote - 1).join('') + '…' : note
}

