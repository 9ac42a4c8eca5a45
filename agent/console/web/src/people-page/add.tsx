import { useState } from 'preact/hooks'
import { api } from '../api'
import { useJob } from '../desk'
import type { Desk } from '../desk'
import { words } from '../words'
import { Name, Rich } from '../words/rich'
import { Field, Problem, Role } from './parts'

const w = words.add

const longestLink = 1024
const longestNote = 200
const fresh = { link: '', name: '', role: 'friend', note: '' }

// AddForm is one line until something is pasted; then it asks for the rest.
export function AddForm({ desk }: { desk: Desk }) {
  const [at, set] = useState(fresh)
  const job = useJob()
  const change = (part: Partial<typeof fresh>) => set((was) => ({ ...was, ...part }))
  const ready = at.link.trim() !== '' && at.name !== ''
  const submit = async (e: Event) => {
    e.preventDefault()
    if (!ready || !await job.run(() => api.add(at.link.trim(), at.name, at.role, at.note.trim()))) return
    desk.show({ say: <Rich text={w.asked} values={{ name: <Name of={at.name} /> }} /> })
    set(fresh)
  }
  return (
    <section class="sec" aria-labelledby="h-add">
      <div class="sec-head"><h2 id="h-add">{w.title}</h2></div>
      <form onSubmit={submit}>
        <Field label={w.link} hidden placeholder={w.paste} value={at.link} set={(link) => change({ link })} max={longestLink} />
        {at.link.trim() && (
          <div class="panel sec">
            <div class="pair">
              <Field label={w.name} value={at.name} set={(name) => change({ name })} hint={words.contacts.nameRule} />
              <Role label={w.role} value={at.role} set={(role) => change({ role })} />
            </div>
            <Field label={w.note} value={at.note} set={(note) => change({ note })} max={longestNote} />
            <div class="btns"><button class="btn main" aria-disabled={job.busy || !ready}>{w.button}</button></div>
          </div>
        )}
        <Problem of={job} />
      </form>
    </section>
  )
}
