import { useEffect, useMemo, useRef } from 'preact/hooks'
import { addressGroups } from './format'
import { qr, qrPath } from './qr'
import { Sign } from './signs'
import { words } from './words'

const w = words.share
const quiet = 4

// QR is dark on white in both looks: some cameras read nothing else.
export function QR({ text, label, large = false }: { text: string; label: string; large?: boolean }) {
  const rows = useMemo(() => qr(text), [text])
  if (!rows) return <p class="small soft">{w.tooLong}</p>
  const n = rows.length + 2 * quiet
  return (
    <svg class={large ? 'qr large' : 'qr'} viewBox={`${-quiet} ${-quiet} ${n} ${n}`} role="img" aria-label={label} shape-rendering="crispEdges">
      <path d={qrPath(rows)} />
    </svg>
  )
}

// Address is shown in eight groups of seven, read aloud and copied as one.
export function Address({ of: address }: { of: string }) {
  return <p class="addr" dir="ltr">{addressGroups(address).map((g, i) => <span key={i}>{g} </span>)}</p>
}

// copyText works also where the clipboard interface does not: over plain HTTP.
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    const area = document.createElement('textarea')
    area.value = text
    area.className = 'vh'
    const host = document.querySelector('dialog[open]') ?? document.body
    host.append(area)
    area.select()
    const done = document.execCommand('copy')
    area.remove()
    return done
  }
}

// Copy takes a text to the clipboard and says so.
export type Copy = (text: string, done?: string) => void

// Own is what is given to others: the owner's link and address where the
// device has an owner, else the device's.
export type Own = { link: string; address: string }

export function ShareCard({ own: { link, address }, copy, enlarge }: { own: Own; copy: Copy; enlarge: () => void }) {
  return (
    <section class="panel share" id="address" aria-labelledby="h-address">
      <QR text={link} label={w.qr} />
      <div class="sec">
        <h2 id="h-address">{w.title}</h2>
        <p class="small soft">{w.say}</p>
        <Address of={address} />
        <div class="btns">
          <button type="button" class="btn main" onClick={() => copy(link)}><Sign of="copy" />{w.copy}</button>
          <button type="button" class="btn" onClick={enlarge}><Sign of="qr" />{w.large}</button>
        </div>
      </div>
    </section>
  )
}

// ShareDialog shows the code large and keeps the screen awake where allowed.
export function ShareDialog({ link, address, copy, close }: { link: string; address: string; copy: Copy; close: () => void }) {
  const ref = useRef<HTMLDialogElement>(null)
  useEffect(() => {
    ref.current?.showModal()
    let lock: WakeLockSentinel | undefined
    let gone = false
    navigator.wakeLock?.request('screen').then((l) => {
      if (gone) void l.release()
      else lock = l
    }, () => {})
    return () => {
      gone = true
      lock?.release()
    }
  }, [])
  return (
    <dialog class="dialog" ref={ref} onClose={close} aria-labelledby="h-dialog">
      <h2 id="h-dialog">{w.dialog}</h2>
      <QR text={link} label={w.qr} large />
      <Address of={address} />
      <p class="small soft">{w.decide}</p>
      <div class="btns">
        <button type="button" class="btn main" onClick={() => copy(link)}><Sign of="copy" />{w.copy}</button>
        <button type="button" class="btn" onClick={() => ref.current?.close()}>{w.close}</button>
      </div>
    </dialog>
  )
}
