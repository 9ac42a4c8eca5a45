import { ago, bytes, roundTrip, span } from './format'
import { Lamp } from './lamp'
import type { Live } from './live'
import { NowList } from './now'
import { People } from './people'
import { ShareCard } from './share'
import type { Copy } from './share'
import { Sign } from './signs'
import type { Share, Status } from './status'
import { Street } from './street'
import { verdictOf } from './verdict'
import { fill, pick, plural, words } from './words'
import { Name, Rich } from './words/rich'

type Props = { live: Live; status: Status; now: number; copy: Copy; share: () => void }

// Home is the one live page: verdict, right now, people, totals, address.
export function Home({ live, status, now, copy, share }: Props) {
  return (
    <>
      <VerdictPanel status={status} now={now} share={share} />
      <div class="cols">
        <div class="stack">
          <NowList live={live} status={status} now={now} />
          <People contacts={status.contacts} now={now} share={share} />
        </div>
        <div class="stack">
          <ShareCard link={status.link} address={status.address} copy={copy} enlarge={share} />
          <Totals status={status} running={status.uptime_ms + (now - live.at)} />
          {status.shares.length > 0 && <Folders of={status.shares} />}
        </div>
      </div>
    </>
  )
}

function VerdictPanel({ status, now, share }: { status: Status; now: number; share: () => void }) {
  const v = verdictOf(status)
  const checked = status.checked_unix_ms > 0
    ? fill(words.checked, { when: ago(status.checked_unix_ms, now) })
    : words.notChecked
  const lit = v.lamp === 'on' || v.lamp === 'help'
  return (
    <section class="panel verdict with-street">
      <Lamp state={v.lamp} height={96} />
      <div class="say" aria-live="polite">
        <h1>{v.head}</h1>
        <p>{v.say}</p>
      </div>
      <div class="more">
        {v.todo && <p><Rich text={v.todo} /></p>}
        <p class="small soft">{checked}</p>
      </div>
      <Street contacts={status.contacts} lit={lit} />
      <div class="btns">
        <button type="button" class="btn main" onClick={share}><Sign of="qr" />{words.share.button}</button>
      </div>
      <Technical status={status} />
    </section>
  )
}

// Technical has the names of things, for who wants to know or to copy them.
function Technical({ status: s }: { status: Status }) {
  const w = words.technical
  const natWord = (kind: string) => pick<string>(words.nat, kind) ?? w.unknown
  return (
    <details class="technical">
      <summary>{w.title}<Sign of="open" class="turn" /></summary>
      <dl class="facts">
        <div><dt>{w.listen}</dt><dd class="mono" dir="ltr">{s.listen || w.unknown}</dd></div>
        <div><dt>{w.public}</dt><dd class="mono" dir="ltr">{s.public || w.unknown}</dd></div>
        <div><dt>{w.mapping}</dt><dd>{natWord(s.nat.mapping)}</dd></div>
        <div><dt>{w.filtering}</dt><dd>{natWord(s.nat.filtering)}</dd></div>
        <div>
          <dt>{w.helpers}</dt>
          <dd>{s.helpers.length === 0 && w.noHelpers}{s.helpers.map((h) => <Helper key={h.address} of={h} />)}</dd>
        </div>
        <div><dt>{w.memory}</dt><dd>{bytes(s.rss_bytes)}</dd></div>
      </dl>
    </details>
  )
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
