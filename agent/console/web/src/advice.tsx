// What a verdict says, with the router as a link, and the sheet that shows how
// to switch UPnP on.

import type { ComponentChildren } from 'preact'
import { useEffect, useRef } from 'preact/hooks'
import { Lamp } from './lamp'
import { capital, plain } from './verdict'
import type { RouterPage, Verdict } from './verdict'
import { words } from './words'
import { Name, Rich } from './words/rich'

const w = words.how

// Told is one text of a verdict.
export function Told({ text, of: v }: { text: string; of: Verdict }) {
  return <Rich text={text} values={nodesOf(text, v)} />
}

// nodesOf has the values as they are shown. A name that begins a sentence
// begins with a capital.
function nodesOf(text: string, v: Verdict): Record<string, ComponentChildren> {
  const { device = '', ...others } = v.values
  const nodes: Record<string, ComponentChildren> = { ...others, device: <Name of={text.startsWith('{device}') ? capital(device) : device} /> }
  if (v.router) nodes.router = <Router of={v.router} />
  else if (others.router) nodes.router = <Name of={others.router} />
  if (others.theRouter !== words.unknown.theRouter) nodes.theRouter = <Rich text={words.known.theRouter} values={{ router: nodes.router }} />
  return nodes
}

function Router({ of: r }: { of: RouterPage }) {
  const link = <RouterLink of={r}>{r.address}</RouterLink>
  return r.name ? <Rich text={words.known.routerName} values={{ address: link, name: <Name of={r.name} /> }} /> : link
}

function RouterLink({ of: r, children }: { of: RouterPage; children: ComponentChildren }) {
  return <a href={r.href} target="_blank" rel="noopener noreferrer">{children}</a>
}

// HowSheet is open until the owner closes it; meanwhile the page asks every
// 10 s, and the lamp lights up in it.
export function HowSheet({ of: v, router, close }: { of: Verdict; router: RouterPage; close: () => void }) {
  const ref = useRef<HTMLDialogElement>(null)
  useEffect(() => ref.current?.showModal(), [])
  const lit = v.lamp === 'on'
  return (
    <dialog class="dialog how" ref={ref} onClose={close} aria-labelledby="h-how">
      <h2 id="h-how">{w.title}</h2>
      <ol>
        <li><Rich text={w.open} values={{ router: <RouterLink of={router}>{router.address}</RouterLink> }} /></li>
        <li><Rich text={router.name ? w.findNamed : w.find} values={{ name: <Name of={router.name} /> }} /></li>
        <li>{w.back}</li>
      </ol>
      <div class="watch">
        <Lamp state={v.lamp} height={48} />
        <p role="status">{lit ? w.done.replace('{head}', plain(v.head, v.values)) : w.looking}</p>
      </div>
      <div class="btns">
        <button type="button" class={lit ? 'btn main' : 'btn'} onClick={() => ref.current?.close()}>{w.close}</button>
      </div>
    </dialog>
  )
}
