// Bringing in another device: a code from this one, or a code of another.

import { useEffect, useState } from 'preact/hooks'
import { api } from '../api'
import type { Devices } from '../api'
import { useJob } from '../desk'
import type { Begun, Desk } from '../desk'
import { timeLeft } from '../format'
import { QR } from '../share'
import type { Copy } from '../share'
import { Sign } from '../signs'
import { focusOn } from '../toast'
import { fill, words } from '../words'
import { Name, Rich } from '../words/rich'
import { Field, Problem } from './parts'

const w = words.bring

type Props = { now: number; desk: Desk; copy: Copy }

export function Bring({ now, desk, copy }: Props) {
  const d = desk.devices
  if (!d) return null
  const mayInvite = d.holds_key || !d.owner
  const mayJoin = !d.owner || d.devices.length <= 1
  if (!mayInvite && !mayJoin) return null
  return (
    <section class="sec" aria-labelledby="h-bring">
      <div class="sec-head"><h2 id="h-bring" tabIndex={-1}>{w.title}</h2></div>
      <div class="panel sec">
        {mayInvite && <Invite now={now} desk={desk} copy={copy} devices={d} />}
        {mayJoin && <Join desk={desk} open={!mayInvite} />}
      </div>
    </section>
  )
}

function Invite({ now, desk, copy, devices: d }: Props & { devices: Devices }) {
  const job = useJob()
  const at = desk.begun.code
  const came = at && d.devices.find((m) => !m.this && !at.known.includes(m.address))
  useEffect(() => {
    if (!came) return
    desk.begin({ code: null })
    desk.show({ say: <Rich text={w.came} values={{ name: <Name of={came.name || came.address.slice(0, 7) + '…'} /> }} /> })
  }, [came?.address])
  const make = () => job.run(async () => {
    const { code, link, expires_s } = await api.invite()
    const known = d.devices.map((m) => m.address)
    desk.begin({ code: { code, link, until: Date.now() + expires_s * 1000, known } })
    focusOn('h-bring')
  })
  const stop = () => job.run(async () => {
    await api.endInvitation()
    desk.begin({ code: null })
    focusOn('h-bring')
  })
  if (!at || at.until <= now) {
    return (
      <>
        <p class="small soft">{at ? w.over : w.say}</p>
        <div class="btns"><button type="button" class="btn" aria-disabled={job.busy} onClick={make}><Sign of="box" />{at ? w.again : w.make}</button></div>
        <Problem of={job} />
      </>
    )
  }
  return (
    <>
      <p class="small soft">{w.type}</p>
      <Code of={at} left={at.until - now} />
      <div class="btns">
        <button type="button" class="btn" onClick={() => copy(at.code, w.copied)}><Sign of="copy" />{w.copy}</button>
        <button type="button" class="btn" onClick={stop}>{w.stop}</button>
      </div>
      <Problem of={job} />
    </>
  )
}

function Code({ of: at, left }: { of: NonNullable<Begun['code']>; left: number }) {
  return (
    <div class="share">
      <QR text={at.link} label={w.qr} />
      <div class="sec tight">
        <p class="big mono" dir="ltr"><span class="vh">{w.code}: </span>{at.code}</p>
        <p class="small soft">{fill(w.left, { time: timeLeft(left) })}</p>
      </div>
    </div>
  )
}

const longestCode = 1024 // a link fits too

function Join({ desk, open }: { desk: Desk; open: boolean }) {
  const [code, set] = useState('')
  const job = useJob()
  const submit = async (e: Event) => {
    e.preventDefault()
    if (!code.trim() || !await job.run(async () => desk.setDevices(await api.join(code.trim())))) return
    set('')
    desk.show({ say: w.joined })
    focusOn('h-devices')
  }
  return (
    <details class="technical" open={open}>
      <summary>{w.join}<Sign of="open" class="turn" /></summary>
      <form onSubmit={submit}>
        <p class="small soft">{w.joinSay}</p>
        <Field label={w.joinCode} value={code} set={set} max={longestCode} />
        <div class="btns"><button class="btn" aria-disabled={job.busy || !code.trim()}>{w.joinDo}</button></div>
        <p class="small soft" role="status">{job.busy && w.joining}</p>
        <Problem of={job} />
      </form>
    </details>
  )
}
