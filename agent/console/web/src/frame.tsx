import type { ComponentChildren } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { Lamp } from './lamp'
import { Sign } from './signs'
import type { LampState } from './verdict'
import { words } from './words'
import { Name } from './words/rich'

type Props = {
  lamp: LampState
  name: string
  state: string
  version: string
  logOut: () => void
  children: ComponentChildren
}

// Frame is top bar and bottom tabs on a phone, one rail from 900 px.
export function Frame({ lamp, name, state, version, logOut, children }: Props) {
  return (
    <>
      <a class="skip" href="#main">{words.skip}</a>
      <div class="rail">
        <header class="bar">
          <Lamp state={lamp} height={34} />
          <span class="where"><b><Name of={name} /></b><small>{state}</small></span>
        </header>
        <Tabs />
        {version && <footer class="rail-foot small"><About version={version} logOut={logOut} /></footer>}
      </div>
      <main id="main">
        {children}
        {version && (
          <section class="sec only-narrow" aria-label={words.console.title}>
            <div class="sec-head"><h2>{words.console.title}</h2></div>
            <div class="panel about"><About version={version} logOut={logOut} /></div>
          </section>
        )}
      </main>
    </>
  )
}

const tabs = [['home', 'main'], ['people', 'people'], ['qr', 'address']] as const
const labels = { main: words.tabs.home, people: words.tabs.people, address: words.tabs.address }

function useHash(): string {
  const [hash, setHash] = useState(location.hash)
  useEffect(() => {
    const read = () => setHash(location.hash)
    addEventListener('hashchange', read)
    return () => removeEventListener('hashchange', read)
  }, [])
  return hash.slice(1)
}

function Tabs() {
  const hash = useHash()
  return (
    <nav class="tabs" aria-label={words.pages}>
      {tabs.map(([sign, id]) => (
        <a key={id} href={'#' + id} aria-current={(Object.hasOwn(labels, hash) ? hash : 'main') === id ? 'location' : undefined}>
          <Sign of={sign} />{labels[id]}
        </a>
      ))}
    </nav>
  )
}

type Look = keyof typeof words.console.looks

function storedLook(): Look {
  const look = document.documentElement.dataset.theme
  return look === 'light' || look === 'dark' ? look : 'auto'
}

function setLook(look: Look) {
  if (look === 'auto') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = look
  try {
    if (look === 'auto') localStorage.removeItem('look')
    else localStorage.setItem('look', look)
  } catch { /* storage is switched off: the look holds until the page is left */ }
}

function About({ version, logOut }: { version: string; logOut: () => void }) {
  const w = words.console
  const [look, choose] = useState(storedLook)
  const change = (e: Event) => {
    const chosen = (e.currentTarget as HTMLSelectElement).value as Look
    setLook(chosen)
    choose(chosen)
  }
  return (
    <>
      <label class="look">
        <span>{w.look}</span>
        <select value={look} onChange={change}>
          {(Object.keys(w.looks) as Look[]).map((l) => <option key={l} value={l}>{w.looks[l]}</option>)}
        </select>
      </label>
      <span>{w.version.replace('{version}', version)}</span>
      <button type="button" class="btn bare" onClick={logOut}>{w.logOut}</button>
    </>
  )
}
