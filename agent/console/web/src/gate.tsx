import type { ComponentChildren } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { logIn, setUp } from './entry'
import type { Answer } from './entry'
import { countdown, span } from './format'
import { Lamp, useTab } from './lamp'
import { QR } from './share'
import type { Copy } from './share'
import { Sign } from './signs'
import type { Status } from './status'
import { plain, verdictOf } from './verdict'
import type { LampState } from './verdict'
import { fill, plural, words } from './words'
import { Rich } from './words/rich'

const w = words.gate
const shortest = 10

function Solo({ lamp, step, children }: { lamp: LampState; step?: number; children: ComponentChildren }) {
  return (
    <main id="main" class="solo">
      <section class="panel gate">
        {step && (
          <div class="steps" role="img" aria-label={fill(w.step, { n: step })}>
            <i class="y" /><i class={step > 1 ? 'y' : ''} />
          </div>
        )}
        <Lamp state={lamp} height={72} />
        {children}
      </section>
    </main>
  )
}

type FieldProps = { label: string; hint: ComponentChildren; value: string; fresh: boolean; bad: boolean; set: (v: string) => void }

function PasswordField({ label, hint, value, fresh, bad, set }: FieldProps) {
  const [shown, show] = useState(false)
  return (
    <>
      <div class="field">
        <label for="pw">{label}</label>
        <input type="text" name="username" value="owner" autocomplete="username" hidden readOnly />
        <input
          id="pw" name="password" type={(shown ? 'text' : 'password') as 'password'} value={value}
          autocomplete={fresh ? 'new-password' : 'current-password'} autocapitalize="off" spellcheck={false}
          aria-describedby="pw-hint" aria-invalid={bad} onInput={(e) => set(e.currentTarget.value)}
        />
        <small id="pw-hint" aria-live="polite">{hint}</small>
      </div>
      <label class="tick"><input type="checkbox" checked={shown} onChange={() => show(!shown)} /><span>{w.show}</span></label>
    </>
  )
}

// FirstRun takes one password and one press.
export function FirstRun({ leftMS, done, refresh }: { leftMS: number; done: () => void; refresh: () => void }) {
  const [value, set] = useState('')
  const [trouble, setTrouble] = useState(false)
  const [busy, setBusy] = useState(false)
  useTab('check', words.product)
  const missing = Math.max(0, shortest - [...value].length)
  const submit = async (e: Event) => {
    e.preventDefault()
    if (busy || missing > 0) return
    setBusy(true)
    const answer = await setUp(value).catch(() => null)
    setBusy(false)
    if (answer?.ok) done()
    else if (answer && (answer.error === 'login' || answer.error === 'setup_closed')) refresh()
    else setTrouble(true)
  }
  const hint = (
    <>
      {w.rule} {value && <b>{missing ? fill(plural(w.more, missing), { n: missing }) : w.enough}</b>}
      {trouble && <span class="bad">{w.trouble}</span>}
    </>
  )
  return (
    <Solo lamp="check" step={1}>
      <div class="sec"><h1>{w.hello}</h1><p class="soft">{w.helloSay}</p></div>
      <form onSubmit={submit}>
        <PasswordField label={w.choose} hint={hint} value={value} fresh bad={trouble} set={set} />
        <div class="btns"><button class="btn main" aria-disabled={busy || missing > 0}>{w.go}</button></div>
      </form>
      <p class="small soft">{fill(w.window, { time: span(leftMS) })}</p>
    </Solo>
  )
}

// LightOn is the second step: the lamp in its real state, and what comes next.
export function LightOn({ status, copy, home }: { status: Status | null; copy: Copy; home: () => void }) {
  const v = status ? verdictOf(status) : null
  const lamp = v?.lamp ?? 'check'
  useTab(lamp, status ? words.lamp[lamp].title + ': ' + status.name : words.product)
  const atHome = !/^(localhost|127\.|\[::1\])/.test(location.host)
  return (
    <Solo lamp={lamp} step={2}>
      <div class="sec" aria-live="polite">
        <h1>{v ? plain(v.head, v.values) : words.verdicts.checking.head}</h1>
        <p class="soft">{v ? plain(v.say, v.values) : words.verdicts.checking.say}</p>
      </div>
      {atHome && <QR text={location.origin + '/'} label={w.phoneQR} />}
      <div class="sec">
        {atHome && <p><Rich text={w.phone} /></p>}
        <p class="small soft">{atHome ? w.friend : w.friendOnly}</p>
      </div>
      <div class="btns">
        <button type="button" class="btn main" onClick={home}>{w.home}</button>
        <button type="button" class="btn" disabled={!status} onClick={() => status && copy(status.link)}><Sign of="copy" />{w.copy}</button>
      </div>
    </Solo>
  )
}

// LogIn tells a stranger nothing: no name, no version, the lamp off.
export function LogIn({ done, refresh }: { done: () => void; refresh: () => void }) {
  const [value, set] = useState('')
  const [busy, setBusy] = useState(false)
  const [answer, setAnswer] = useState<Answer | null>(null)
  const wait = useCountdown(answer)
  useTab('off', words.product)
  const submit = async (e: Event) => {
    e.preventDefault()
    if (busy || wait > 0 || !value) return
    setBusy(true)
    const said = await logIn(value).catch(() => ({ ok: false, status: 0, error: '', retryMS: 0 }))
    setBusy(false)
    if (said.ok) done()
    else if (said.error === 'setup') refresh()
    else setAnswer(said)
  }
  return (
    <Solo lamp="off">
      <h1>{w.who}</h1>
      <form onSubmit={submit}>
        <PasswordField label={w.password} hint={answer && <span class="bad">{troubleOf(answer, wait)}</span>} value={value} fresh={false} bad={answer?.status === 401} set={set} />
        <div class="btns"><button class="btn main" aria-disabled={busy || wait > 0}>{w.go}</button></div>
      </form>
    </Solo>
  )
}

function troubleOf(answer: Answer, wait: number): string {
  if (answer.status === 401) return w.wrong
  if (answer.retryMS > 0) return wait > 0 ? fill(w.many, { time: countdown(wait) }) : w.again
  return w.trouble
}

// useCountdown is how long to wait after an answer, in ms, each second anew.
function useCountdown(answer: Answer | null): number {
  const [left, setLeft] = useState(0)
  useEffect(() => {
    const end = Date.now() + (answer?.retryMS ?? 0)
    const read = () => setLeft(Math.max(0, end - Date.now()))
    read()
    if (!answer?.retryMS) return
    const timer = setInterval(read, 1000)
    return () => clearInterval(timer)
  }, [answer])
  return left
}

export function Closed() {
  useTab('off', words.product)
  return (
    <Solo lamp="off">
      <div class="sec"><h1>{w.closed}</h1><p class="soft">{w.closedSay}</p></div>
    </Solo>
  )
}
