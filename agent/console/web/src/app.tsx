import { useCallback, useEffect, useReducer, useState } from 'preact/hooks'
import { logOut, session } from './entry'
import type { Session } from './entry'
import { clock } from './format'
import { useBegun, useDevices, useVanish } from './desk'
import type { Desk } from './desk'
import { Frame, usePage } from './frame'
import type { PageName } from './frame'
import { Closed, FirstRun, LightOn, LogIn } from './gate'
import { Home } from './home'
import { HowSheet } from './advice'
import { useTab } from './lamp'
import { backOff, connect, nothing, reduce } from './live'
import type { Event, Live } from './live'
import { netcheck } from './netcheck'
import { PeoplePage } from './lazy'
import { copyText, ShareDialog } from './share'
import type { Copy, Own } from './share'
import { Sign } from './signs'
import { focusOn, useToast } from './toast'
import { Trouble } from './trouble'
import { verdictOf } from './verdict'
import type { RouterPage } from './verdict'
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
    <Frame lamp="check" name={words.product} state={words.lamp.check.bar} version="" page="home" news={0} logOut={() => {}}>
      <section class="panel verdict first" aria-busy="true" />
    </Frame>
  )
}

const longAwayMS = 60_000

function Inside({ fresh, settled, loggedOut }: { fresh: boolean; settled: () => void; loggedOut: () => void }) {
  const [live, tell] = useReducer(reduce, nothing)
  const [sharing, setSharing] = useState(false)
  const [showing, setShowing] = useState<RouterPage | null>(null)
  const page = usePage(() => focusOn('main'))
  const { toast, show } = useToast()
  const { status: s, vanish, fail, trouble, clear } = useVanish(live.status, show)
  const { begun, begin } = useBegun()
  const devices = useDevices(s, page === 'people', begun.code !== null)
  const now = useClock()
  useEffect(() => connect({ event: tell, loggedOut }), [])
  useNetcheck(live, showing !== null, tell)
  const copy = async (text: string, done = words.share.copied) => show({ say: (await copyText(text)) ? done : words.share.notCopied })
  const leave = () => logOut().then(loggedOut, loggedOut)

  if (fresh) return <><LightOn status={s} copy={copy} home={settled} />{toast}</>
  // To others the owner's link is given: it leads to the best of the devices.
  const own = { link: devices.devices?.link || s?.link || '', address: devices.devices?.owner || s?.address || '' }
  return (
    <>
      <Page
        page={page} live={{ ...live, status: s }} now={now} own={own} desk={{ show, vanish, fail, begun, begin, ...devices }}
        copy={copy} share={() => setSharing(true)} how={setShowing} leave={leave} trouble={trouble} clear={clear}
      />
      {sharing && s && <ShareDialog link={own.link} address={own.address} copy={copy} close={() => setSharing(false)} />}
      {showing && s && <HowSheet of={verdictOf(s, live.netcheck)} router={showing} close={() => setShowing(null)} />}
      {toast}
    </>
  )
}

type PageProps = {
  page: PageName
  live: Live
  now: number
  own: Own
  desk: Desk
  copy: Copy
  share: () => void
  how: (router: RouterPage) => void
  leave: () => void
  trouble: string
  clear: () => void
}

function Page({ page, live, now, own, desk, copy, share, how, leave, trouble, clear }: PageProps) {
  const s = live.status
  const lamp = s ? verdictOf(s).lamp : 'check'
  const name = s?.name || words.product
  const away = live.awaySince > 0
  const title = away ? fill(words.away.short, { device: name }) : words.lamp[lamp].title + ': ' + name
  useTab(lamp, s ? title : words.product)
  // With the words for the network come those of the verdict: nothing is
  // shown that the next answer would push away.
  const ready = live.netcheck !== undefined
  const news = s ? s.requests.length + s.contacts.filter((c) => !c.blocked && c.unread > 0).length : 0
  return (
    <Frame lamp={lamp} name={name} state={words.lamp[lamp].bar} version={ready && s ? s.version : ''} page={page} news={news} logOut={leave}>
      {away && <Away since={live.awaySince} seen={live.at} name={name} now={now} />}
      {trouble && <Trouble close={clear}>{trouble}</Trouble>}
      {page === 'people' && s && <PeoplePage status={s} own={own} now={now} desk={desk} copy={copy} share={share} />}
      {page === 'home' && (s && ready
        ? <Home live={live} status={s} netcheck={live.netcheck ?? null} own={own} now={now} copy={copy} share={share} how={how} />
        : <section class="panel verdict first" aria-busy="true" />)}
      {page === 'people' && !s && <section class="panel verdict first" aria-busy="true" />}
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

const quickMS = 10_000
const slowMS = 60_000

// useNetcheck asks about the network when the status hints at something new,
// and from time to time: often while somebody watches for a change or the
// verdict is in question.
function useNetcheck(live: Live, watched: boolean, tell: (e: Event) => void) {
  const s = live.status
  const news = s && [s.reachability, s.checked_unix_ms, s.doubt, s.nat.mapping, s.nat.filtering, s.public, s.listen].join()
  const open = (s?.doubt ?? live.netcheck?.doubt) || s?.reachability === 'checking'
  const every = watched || open ? quickMS : slowMS
  useEffect(() => {
    if (!news) return
    let gone = false
    const ask = async () => {
      if (document.hidden) return
      const answer = await netcheck()
      if (!gone) tell({ kind: 'netcheck', netcheck: answer })
    }
    ask()
    const timer = setInterval(ask, every)
    document.addEventListener('visibilitychange', ask) // back from the router's page
    return () => {
      gone = true
      document.removeEventListener('visibilitychange', ask)
      clearInterval(timer)
    }
  }, [news, every])
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
