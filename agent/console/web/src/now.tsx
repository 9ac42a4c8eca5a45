import { bytes, bytesOf, percent, rate, span } from './format'
import type { Live } from './live'
import { Sign } from './signs'
import type { Status, Transfer, Work } from './status'
import { fill, plural, words } from './words'
import { Name, Rich } from './words/rich'

const w = words.now

// Time left is shown once a transfer has been seen for this long.
const settleMS = 5000
// Packets passed on count as "now" for this long after the last.
const relayMS = 6000

// NowList is what this device does at this moment: served, fetched, computed,
// passed on.
export function NowList({ live, status, now }: { live: Live; status: Status; now: number }) {
  const relaying = live.relayedAt > 0 && now - live.relayedAt < relayMS
  const idle = status.transfers.length === 0 && status.work.running === 0 && !relaying
  return (
    <section class="sec" aria-labelledby="h-now">
      <div class="sec-head"><h2 id="h-now">{w.title}</h2></div>
      {idle
        ? <p class="panel soft">{w.nothing}</p>
        : (
          <ul class="rows" aria-live="off">
            {status.transfers.map((t) => (
              <TransferRow key={t.id} of={t} settled={now - (live.firstSeen[t.id] ?? now) >= settleMS} />
            ))}
            {status.work.running > 0 && <WorkRow of={status.work} />}
            {relaying && <RelayRow total={status.traffic.relayed_bytes} />}
          </ul>
        )}
    </section>
  )
}

function TransferRow({ of: t, settled }: { of: Transfer; settled: boolean }) {
  const out = t.direction === 'out'
  const known = t.total_bytes > 0
  const done = percent(t.bytes, t.total_bytes)
  const [some, all] = bytesOf(t.bytes, t.total_bytes)
  const parts = [known ? fill(w.of, { done: some, total: all }) : bytes(t.bytes)]
  if (settled && known && t.bytes_per_second > 0 && t.bytes < t.total_bytes) {
    parts.push(fill(w.left, { time: span(((t.total_bytes - t.bytes) / t.bytes_per_second) * 1000) }))
  }
  if (known && t.bytes >= t.total_bytes) parts.push(w.checking)
  const values = { peer: <Name of={t.peer} />, name: <Name of={t.name} /> }
  return (
    <li>
      <span class="pic"><Sign of={out ? 'up' : 'down'} /></span>
      <span class="what">
        <b><Rich text={out ? w.out : w.in} values={values} /></b>
        <small>{!out && <><Rich text={w.from} values={values} /> · </>}{parts.join(' · ')}</small>
      </span>
      <span class="end"><b class="num">{rate(t.bytes_per_second)}</b></span>
      {known && (
        <div class="under">
          <div
            class="meter" role="progressbar" aria-valuemin={0} aria-valuemax={100} aria-valuenow={done}
            aria-label={t.name} aria-valuetext={fill(w.progress, { name: t.name, percent: done + ' %' })}
          >
            <i style={{ width: done + '%' }} />
          </div>
        </div>
      )}
    </li>
  )
}

function WorkRow({ of: work }: { of: Work }) {
  const done = fill(plural(w.workDone, work.done), { n: work.done, time: span(work.cpu_ms) })
  return (
    <li>
      <span class="pic"><Sign of="work" /></span>
      <span class="what">
        <b>{fill(plural(w.work, work.running), { n: work.running })}</b>
        <small>{done}</small>
      </span>
    </li>
  )
}

function RelayRow({ total }: { total: number }) {
  return (
    <li>
      <span class="pic"><Sign of="relay" /></span>
      <span class="what"><b>{w.relay}</b><small>{w.relaySub}</small></span>
      <span class="end"><b class="num">{bytes(total)}</b></span>
    </li>
  )
}
