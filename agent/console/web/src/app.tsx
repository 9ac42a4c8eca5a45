import { useCallback, useEffect, useReducer, useState } from 'preact/hooks'
import { logOut, session } from './entry'
import type { Session } from './entry'
import { clock } from './format'
import { Frame } from './frame'
import { Closed, FirstRun, LightOn, LogIn } from './gate'
import { Home } from './home'
import { useTab } from './lamp'
import { backOff, connect, nothing, reduce } from './live'
import { copyText, ShareDialog } from './share'
import { Sign } from './signs'
import { verdictOf } from './verdict'
import { fill, words } from './words'

// App shows the gate or the live page, as the session says.
export function App() {
  const { at, refresh } = useSession()
  const [fresh, setFresh] = useState(false)
  const begun = () => {
    setFresh(true)
    refresh()
  }
  if (!at) return <Blank />
  if (at.state === 'setup') return <FirstRun leftMS={at.setup_left_ms ?? 0} done={begun} refresh={refresh} />
  if (at.state === 'login') return <LogIn done={refresh} refresh={refresh} />
  if (at.state === 'closed') return <Closed />
  return <Inside fresh={fresh} settled={() => setFresh(false)} loggedOut={refresh} />
}

// useSession asks until the device answers.
function useSession() {
  const [at, set] = useState<Session | null>(null)
  const refresh = useCallback(() => {
    const ask = (n: number) => {
      session().then(set, () => setTimeout(() => ask(n + 1), backOff(n, Math.random())))
    }
    ask(0)
  }, [])
  useEffect(refresh, [])
  return { at, refresh }
}

// Blank is the page before the first answer: what index.html holds.
function Blank() {
  return (
    <Frame lamp="check" name={words.product} state={words.lamp.check.bar} version="" logOut={() => {}}>
      <section class="panel verdict first" aria-busy="true" />
    </Frame>
  )
}

const toastMS = 6000
const longAwayMS = 60_000

function Inside({ fresh, settled, loggedOut }: { fresh: boolean; settled: () => void; loggedOut: () => void }) {
  const [live, tell] = useReducer(reduce, nothing)
  const [sharing, setSharing] = useState(false)
  const { toast, say } = useToast()
  const now = useClock()
  useEffect(() => connect({ event: tell, loggedOut }), [])
  const copy = async (link: string) => say((await copyText(link)) ? words.share.copied : words.share.notCopied)
  const leave = () => logOut().then(loggedOut, loggedOut)

  if (fresh) return <><LightOn status={live.status} copy={copy} home={settled} />{toast}</>
  const s = live.status
  return (
    <>
      <Page live={live} now={now} copy={copy} share={() => setSharing(true)} leave={leave} />
      {sharing && s && <ShareDialog link={s.link} address={s.address} copy={copy} close={() => setSharing(false)} />}
      {toast}
    </>
  )
}

type PageProps = {
  live: ReturnType<typeof reduce>
  now: number
  copy: (link: string) => void
  share: () => void
  leave: () => void
}

function Page({ live, now, copy, share, leave }: PageProps) {
  const s = live.status
  const lamp = s ? verdictOf(s).lamp : 'check'
  const name = s?.name || words.product
  const away = live.awaySince > 0
  const title = away ? fill(words.away.short, { device: name }) : words.lamp[lamp].title + ': ' + name
  useTab(lamp, s ? title : words.product)
  return (
    <Frame lamp={lamp} name={name} state={words.lamp[lamp].bar} version={s?.version ?? ''} logOut={leave}>
      {away && <Away since={live.awaySince} seen={live.at} name={name} now={now} />}
      {s
        ? <Home live={live} status={s} now={now} copy={copy} share={share} />
        : <section class="panel verdict first" aria-busy="true" />}
    </Frame>
  )
}

function Away({ since, seen, name, now }: { since: number; seen: number; name: string; now: number }) {
  const w = words.away
  const text = now - since > longAwayMS ? w.long : seen ? w.strip : w.first
  return (
    <div class="strip" role="status">
      <Sign of="turn" class="spin" />
      <span>{fill(text, { device: name, time: clock(seen) })}</span>
    </div>
  )
}

// useClock ticks each second, for times that are told relative to now.
function useClock(): number {
  const [now, set] = useState(Date.now)
  useEffect(() => {
    const timer = setInterval(() => set(Date.now()), 1000)
    return () => clearInterval(timer)
  }, [])
  return now
}

// useToast shows one sentence at a time, for six seconds.
function useToast() {
  const [text, set] = useState('')
  useEffect(() => {
    if (!text) return
    const timer = setTimeout(() => set(''), toastMS)
    return () => clearTimeout(timer)
  }, [text])
  const toast = <div class="toasts" role="status">{text && <div class="toast">{text}</div>}</div>
  return { toast, say: set }
}
