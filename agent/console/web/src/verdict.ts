// From the code of a verdict to lamp and words.

import { insideOf, mappingOf } from './netcheck'
import type { Netcheck } from './netcheck'
import { isPrivate } from './path'
import type { Status } from './status'
import { fill, pick, words } from './words'

export type LampState = 'on' | 'help' | 'check' | 'off'

const lamps: Record<string, LampState> = {
  mapped: 'on', forwarded: 'on', public: 'on', ipv6_only: 'on',
  nat_easy: 'help', nat_hard: 'help', double_nat: 'help', cgnat: 'help',
  map_lies: 'help', refused: 'help', udp_blocked: 'help', web_only: 'help',
  no_helper: 'off', no_internet: 'off', captive: 'off', no_network: 'off',
  blocked: 'off', private: 'off', no_key: 'off',
  checking: 'check',
}

// Those that UPnP at the router would make better.
const wantUPnP = ['ipv6_only', 'nat_easy', 'nat_hard', 'refused', 'no_helper']

type Text = { head: string; say: string; todo: string }

// A Verdict's texts still have their {braces}: values has the words for them,
// of which the page shows the router's as a link and names as <Name>.
export type Verdict = Text & {
  lamp: LampState
  doubt: string
  values: Record<string, string>
  router: RouterPage | null
  upnp: boolean // switching it on would help, and we know where
}

type Known = Pick<Status, 'reachability' | 'name' | 'listen' | 'doubt'>

// verdictOf tells what the status says, with the details of the network as far
// as they have come. A code of a newer device than this page shows as being
// checked: never worse news than is true.
export function verdictOf(s: Known, n: Netcheck | null = null): Verdict {
  const text = pick<Text>(words.verdicts, s.reachability) ?? words.verdicts.checking
  const lamp = pick(lamps, s.reachability) ?? 'check'
  const router = n ? routerPage(n) : null
  return {
    ...text,
    lamp,
    doubt: (s.doubt ?? n?.doubt) ? (lamp === 'on' ? words.doubt.on : words.doubt.help) : '',
    values: placeholders(s, n),
    router,
    upnp: router !== null && wantUPnP.includes(s.reachability),
  }
}

// plain is a text of a verdict with its values, beginning with a capital.
export function plain(text: string, values: Record<string, string>): string {
  return capital(fill(text, values))
}

export const capital = (s: string) => s.charAt(0).toUpperCase() + s.slice(1)

function placeholders(s: Known, n: Netcheck | null): Record<string, string> {
  const w = words.known
  const { host, port } = hostPort((n && insideOf(n)) || s.listen)
  const outer = n ? hostPort(mappingOf(n)?.external ?? '').host : ''
  const router = n ? routerName(n) : ''
  return {
    ...words.unknown,
    ...(s.name && { device: s.name }),
    ...(port && { port: fill(w.port, { port }) }),
    ...(host && !isAny(host) && { local: host }),
    ...(router && { router, theRouter: fill(w.theRouter, { router }) }),
    ...(isPrivate(outer) && { outer: fill(w.outer, { address: outer }) }),
  }
}

export type RouterPage = { address: string; name: string; href: string }

// routerPage is where the router may be set up: only an address of this home
// becomes a link.
function routerPage(n: Netcheck): RouterPage | null {
  const { address, name } = n.router
  if (!isPrivate(address) || !/^[\d.]+$|^[\da-f:]+$/i.test(address)) return null
  return { address, name, href: 'http://' + (address.includes(':') ? `[${address}]` : address) + '/' }
}

const routerName = ({ router: { address, name } }: Netcheck) =>
  address && name ? fill(words.known.routerName, { address, name }) : address

const isAny = (host: string) => host === '0.0.0.0' || host === '::'

// hostPort splits "192.168.1.2:4001" and "[fd00::2]:4001"; empty if it cannot.
export function hostPort(s: string): { host: string; port: string } {
  const m = /^(?:\[([^\]]*)\]|([^:]*)):(\d+)$/.exec(s)
  return m ? { host: m[1] ?? m[2] ?? '', port: m[3] ?? '' } : { host: '', port: '' }
}
