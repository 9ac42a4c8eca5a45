import { pathKind } from './path'
import { letterOf } from './signs'
import type { Contact } from './status'
import { cut } from './words/rich'

const mostHouses = 7
const ground = 112
const first = 147 // middle of the first neighbour's house
const step = 56

// neighbours picks who is drawn: on-line first, then by most recent contact.
export function neighbours(contacts: Contact[]): Contact[] {
  return contacts
    .filter((c) => !c.blocked && c.role !== 'me')
    .sort((a, b) => Number(b.online) - Number(a.online) || b.last_seen_unix_ms - a.last_seen_unix_ms)
    .slice(0, mostHouses)
}

// Street draws the own house, own other devices beside it, and the neighbours.
// Only a picture: the list of people says the same.
export function Street({ contacts, lit }: { contacts: Contact[]; lit: boolean }) {
  const houses = neighbours(contacts)
  const own = contacts.filter((c) => c.role === 'me' && c.online).length > 0
  if (houses.length === 0 && !own) return null
  const width = Math.max(340, first + (houses.length - 1) * step + 25)
  return (
    <svg class="street" viewBox={`0 0 ${width} 128`} aria-hidden="true">
      <radialGradient id="halo"><stop class="in" /><stop class="rim" offset="1" /></radialGradient>
      {lit && <circle cx="46" cy="82" r="62" fill="url(#halo)" />}
      <path class="ground" d={`M4 ${ground}h${width - 8}`} />
      <path class={lit ? 'h lit' : 'h'} d="M18 112V76l28-23 28 23v36z" />
      {lit && <path class="win" d="M27 82h12v12H27z" />}
      <path class="h" d="M50 112V90h14v22" />
      {own && <path class="h lit" d="M80 112V97l11-8 11 8v15z" />}
      {houses.map((c, i) => <Neighbour key={c.address} of={c} x={first + i * step} />)}
    </svg>
  )
}

function Neighbour({ of: c, x }: { of: Contact; x: number }) {
  const kind = pathKind(c)
  const top = 74
  const peak = 52 - Math.min(90, (x - 46) * 0.42)
  return (
    <>
      {(kind === 'direct' || kind === 'home') && <path class="a" d={`M46 50Q${(46 + x) / 2} ${peak} ${x} ${top}`} />}
      {kind === 'relay' && <path class="r" d={`M46 50Q${(46 + x) / 2} ${peak} ${x} ${top}`} />}
      <path class={c.online ? 'h lit' : 'h'} d={`M${x - 17} ${ground}V92l17-14 17 14v20z`} />
      <text class={c.online ? '' : 'out'} x={x} y="106">{letterOf(cut(c.name))}</text>
    </>
  )
}
