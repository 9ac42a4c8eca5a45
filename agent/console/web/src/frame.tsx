import type { ComponentChildren } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { Lamp } from './lamp'
import { Sign } from './signs'
import { focusOn } from './toast'
import type { LampState } from './verdict'
import { fill, plural, words } from './words'
import { Name } from './words/rich'

type Props = {
  lamp: LampState
  name: string
  state: string
  version: string
  page: PageName
  news: number // how many requests and talks nobody has looked at
  logOut: () => void
  children: ComponentChildren
}

// Frame is top bar and bottom tabs on a phone, one rail from 900 px.
export function Frame({ lamp, name, state, version, page, news, logOut, children }: Props) {
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>{words.skip}</a>
      <div class="rail">
        <header class="bar">
          <Lamp state={lamp} height={34} />
          <span class="where"><b><Name of={name} /></b><small>{state}</small></span>
        </header>
        <Tabs page={page} news={news} />
        {version && <footer class="rail-foot small"><About version={version} logOut={logOut} /></footer>}
      </div>
      <main id="main" tabIndex={-1}>
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

const tabs = ['home', 'people'] as const

export type PageName = (typeof tabs)[number]

// skip goes to the content; the address keeps naming the page.
function skip(e: Event) {
  e.preventDefault()
  focusOn('main')
}

const pageOf = (hash: string): PageName => (hash === '#people' ? 'people' : 'home')

// usePage follows the address; arrived is called on each later change.
export function usePage(arrived: () => void): PageName {
  const [page, set] = useState(() => pageOf(location.hash))
  useEffect(() => {
    const read = () => set(pageOf(location.hash))
    addEventListener('hashchange', read)
    return () => removeEventListener('hashchange', read)
  }, [])
  const first = useRef(true)
  useEffect(() => {
    if (!first.current) {
      scrollTo(0, 0)
      arrived()
    }
    first.current = false
  }, [page])
  return page
}

function Tabs({ page, news }: { page: PageName; news: number }) {
  return (
    <nav class="tabs" aria-label={words.pages}>
      {tabs.map((name) => (
        <a key={name} href={'#' + name} aria-current={page === name ? 'page' : undefined}>
          <Sign of={name} />
          <span>
            {words.tabs[name]}
            {name === 'people' && news > 0 && (
              <> <b class="count" aria-hidden="true">{news}</b><span class="vh">{fill(plural(words.tabNews, news), { n: news })}</span></>
            )}
          </span>
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
