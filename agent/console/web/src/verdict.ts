// From the code of a verdict to lamp and words.

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

type Text = { head: string; say: string; todo: string }

export type Verdict = { lamp: LampState; head: string; say: string; todo: string }

// verdictOf fills in what the status knows. A code of a newer device than this
// page shows as being checked: never worse news than is true.
export function verdictOf(s: Pick<Status, 'reachability' | 'name' | 'listen'>): Verdict {
  const text = pick<Text>(words.verdicts, s.reachability) ?? words.verdicts.checking
  const values = placeholders(s)
  return {
    lamp: pick(lamps, s.reachability) ?? 'check',
    head: capital(fill(text.head, values)),
    say: capital(fill(text.say, values)),
    todo: fill(text.todo, values),
  }
}

function placeholders(s: Pick<Status, 'name' | 'listen'>): Record<string, string> {
  const { host, port } = hostPort(s.listen)
  return {
    ...words.unknown,
    ...(s.name && { device: s.name }),
    ...(port && { port }),
    ...(host && !isAny(host) && { local: host }),
  }
}

const capital = (s: string) => s.charAt(0).toUpperCase() + s.slice(1)

const isAny = (host: string) => host === '0.0.0.0' || host === '::'

// hostPort splits "192.168.1.2:4001" and "[fd00::2]:4001"; empty if it cannot.
export function hostPort(s: string): { host: string; port: string } {
  const m = /^(?:\[([^\]]*)\]|([^:]*)):(\d+)$/.exec(s)
  return m ? { host: m[1] ?? m[2] ?? '', port: m[3] ?? '' } : { host: '', port: '' }
}
