import { api } from '../api'
import { useJob } from '../desk'
import type { Desk } from '../desk'
import { nameOf } from '../people'
import { House, letterOf } from '../signs'
import type { Contact } from '../status'
import { focusOn } from '../toast'
import { words } from '../words'
import { cut, Name, Rich } from '../words/rich'
import { Problem } from './parts'

const w = words.blocked

export function Blocked({ of: all, desk }: { of: Contact[]; desk: Desk }) {
  return (
    <section class="sec" aria-labelledby="h-blocked">
      <div class="sec-head"><h2 id="h-blocked" tabIndex={-1}>{w.title}</h2></div>
      <p class="soft">{all.length > 0 ? w.some : w.nobody}</p>
      {all.length > 0 && <ul class="rows blocked">{all.map((c) => <Row key={c.address} of={c} desk={desk} />)}</ul>}
    </section>
  )
}

function Row({ of: c, desk }: { of: Contact; desk: Desk }) {
  const job = useJob()
  const again = () => job.run(async () => {
    await api.block(c, false)
    desk.show({ say: <Rich text={words.contacts.unblocked} values={{ name: <Name of={nameOf(c)} /> }} /> })
    focusOn('h-blocked')
  })
  return (
    <li>
      <span class="pic"><House letter={letterOf(cut(nameOf(c)))} lit={false} /></span>
      <span class="what"><b><Name of={nameOf(c)} /></b><small class="mono" dir="ltr">{c.address.slice(0, 7)}…</small></span>
      <span class="end"><button type="button" class="btn" onClick={again}>{w.again}</button></span>
      {job.trouble && <div class="under"><Problem of={job} /></div>}
    </li>
  )
}
