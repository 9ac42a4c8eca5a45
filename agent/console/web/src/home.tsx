import { Told } from './advice'
import { ago, bytes, roundTrip, span } from './format'
import { Lamp } from './lamp'
import type { Live } from './live'
import type { Door, Netcheck } from './netcheck'
import { NowList } from './now'
import { Asked, People } from './people'
import { ShareCard } from './share'
import type { Copy, Own } from './share'
import { Sign } from './signs'
import type { Share, Status } from './status'
import { Street } from './street'
import { plain, verdictOf } from './verdict'
import type { RouterPage } from './verdict'
import { fill, pick, plural, words } from './words'
import { Name, Rich } from './words/rich'

type VerdictProps = {
  status: Status
  netcheck: Netcheck | null
  now: number
  share: () => void
  how: (router: RouterPage) => void
}

type Props = VerdictProps & { live: Live; own: Own; copy: Copy }

// Home is the one live page: verdict, right now, people, totals, address.
export function Home({ live, status, netcheck, own, now, copy, share, how }: Props) {
  return (
    <>
      <VerdictPanel status={status} netcheck={netcheck} now={now} share={share} how={how} />
      <Asked of={status.requests} />
      <div class="cols">
        <div class="stack">
          <NowList live={live} status={status} now={now} />
          <People contacts={status.contacts} now={now} share={share} />
        </div>
        <div class="stack">
          <ShareCard own={own} copy={copy} enlarge={share} />
          <Totals status={status} running={status.uptime_ms + (now - live.at)} />
          {status.shares.length > 0 && <Folders of={status.shares} />}
        </div>
      </div>
    </>
  )
}

function VerdictPanel({ status, netcheck, now, share, how }: VerdictProps) {
  const v = verdictOf(status, netcheck)
  const checked = status.checked_unix_ms > 0
    ? fill(words.checked, { when: ago(status.checked_unix_ms, now) })
    : words.notChecked
  const lit = v.lamp === 'on' || v.lamp === 'help'
  return (
    <section class="panel verdict with-street">
      <Lamp state={v.lamp} height={96} />
      <div class="say" aria-live="polite">
        <h1>{plain(v.head, v.values)}</h1>
        <p><Told text={v.say} of={v} /></p>
      </div>
      <div class="more">
        {v.todo && <p><Told text={v.todo} of={v} /></p>}
        <p class="small soft">{v.doubt || checked}</p>
      </div>
      <div class="btns">
        {v.router && v.upnp && <button type="button" class="btn main" onClick={() => how(v.router!)}>{words.how.button}</button>}
        <button type="button" class={v.upnp ? 'btn' : 'btn main'} onClick={share}><Sign of="qr" />{words.share.button}</button>
      </div>
      <Street contacts={status.contacts} lit={lit} />
      <Technical status={status} netcheck={netcheck} />
    </section>
  )
}

// Technical has the names of things, for who wants to know or to copy them.
function Technical({ status: s, netcheck: n }: { status: Status; netcheck: Netcheck | null }) {
  const w = words.technical
  const natWord = (kind: string) => pick<string>(words.nat, kind) ?? w.unknown
  const step = n?.ports.delta ?? 0
  const mapping = natWord(s.nat.mapping)
  return (
    <details class="technical">
      <summary>{w.title}<Sign of="open" class="turn" /></summary>
      <dl class="facts">
        <div><dt>{w.listen}</dt><dd class="mono" dir="ltr">{s.listen || w.unknown}</dd></div>
        <div>
          <dt>{w.public}</dt>
          <dd class="mono" dir="ltr">{[...new Set([s.public, n?.public_ipv6])].map((a) => a && <span class="line" key={a}>{a}</span>)}{!s.public && w.unknown}</dd>
        </div>
        <div><dt>{w.mapping}</dt><dd>{step ? fill(w.delta, { mapping, step: signed(step) }) : mapping}</dd></div>
        <div><dt>{w.filtering}</dt><dd>{natWord(s.nat.filtering)}</dd></div>
        <div>
          <dt>{w.helpers}</dt>
          <dd>{s.helpers.length === 0 && w.noHelpers}{s.helpers.map((h) => <Helper key={h.address} of={h} />)}</dd>
        </div>
        <div><dt>{w.memory}</dt><dd>{bytes(s.rss_bytes)}</dd></div>
        {n && <RouterFacts of={n} />}
      </dl>
    </details>
  )
}

// RouterFacts are what the router opened when it was asked, and what came in.
function RouterFacts({ of: n }: { of: Netcheck }) {
  const w = words.technical
  const { address, name, outcomes } = n.router
  const asked = Object.keys(words.methods).filter((m) => Object.hasOwn(outcomes, m))
  return (
    <>
      <div><dt>{w.router}</dt><dd>{address ? <span class="mono" dir="ltr">{address}</span> : w.unknown}{name && <> <Name of={name} /></>}</dd></div>
      <div>
        <dt>{w.methods}</dt>
        <dd>
          {asked.length === 0 && w.unknown}
          {asked.map((m) => <span class="line" key={m}>{methodLine(m, outcomes[m] ?? '')}</span>)}
        </dd>
      </div>
      <div>
        <dt>{w.doors}</dt>
        <dd>
          {n.doors.length === 0 && w.unknown}
          {n.doors.map((d) => <span class="line" key={d.transport + d.family}>{doorLine(d)}</span>)}
        </dd>
      </div>
    </>
  )
}

const signed = (n: number) => (n < 0 ? '−' : '+') + Math.abs(n)

function methodLine(code: string, outcome: string): string {
  const w = words.technical
  return fill(w.method, { method: pick<string>(words.methods, code) ?? code, outcome: pick<string>(words.outcomes, outcome) ?? w.unknown })
}

function doorLine(d: Door): string {
  const w = words.technical
  const state = d.reachable ? pick<string>(words.proofs, d.proof) ?? w.open : w.shut
  return fill(w.door, { transport: d.transport.toUpperCase(), family: pick<string>(words.family, d.family) ?? d.family, state })
}

function Helper({ of: h }: { of: Status['helpers'][number] }) {
  const name = <Name of={h.name || h.address.slice(0, 7) + '…'} />
  const values = { name, transport: h.transport.toUpperCase(), rtt: roundTrip(h.rtt_ms) || words.technical.unknown }
  return <span class="line"><Rich text={h.online ? words.technical.helper : words.technical.helperOff} values={values} /></span>
}

function Totals({ status: s, running }: { status: Status; running: number }) {
  const w = words.totals
  const work = s.work.enabled || s.work.done > 0
  return (
    <section class="sec" aria-labelledby="h-totals">
      <div class="sec-head">
        <h2 id="h-totals">{w.title}</h2>
        <span class="small soft">{fill(w.since, { time: span(running) })}</span>
      </div>
      <dl class="panel four">
        <div><dt>{w.sent}</dt><dd>{bytes(s.traffic.sent_bytes)}</dd></div>
        <div><dt>{w.received}</dt><dd>{bytes(s.traffic.received_bytes)}</dd></div>
        <div><dt>{w.relayed}</dt><dd>{bytes(s.traffic.relayed_bytes)}</dd></div>
        <div>
          <dt>{w.work}</dt>
          <dd>
            {work ? (s.work.cpu_ms > 0 ? span(s.work.cpu_ms) : '0' + '\u00a0s') : w.workOff}
            {work && <small>{fill(plural(w.tasks, s.work.done), { n: s.work.done })}</small>}
          </dd>
        </div>
      </dl>
    </section>
  )
}

function Folders({ of: shares }: { of: Share[] }) {
  const w = words.folders
  const who = (list: string[] | null) =>
    (list ?? []).map((one) => pick<string>(w.who, one) ?? one).join(', ') || w.nobody
  return (
    <section class="sec" aria-labelledby="h-folders">
      <div class="sec-head"><h2 id="h-folders">{w.title}</h2></div>
      <ul class="rows">
        {shares.map((s) => (
          <li key={s.name}>
            <span class="pic"><Sign of="folder" /></span>
            <span class="what">
              <b><Name of={s.name} /></b>
              <small>{fill(w.read, { who: who(s.read) })}{(s.write ?? []).length > 0 && ' · ' + fill(w.write, { who: who(s.write) })}</small>
            </span>
          </li>
        ))}
      </ul>
    </section>
  )
}
