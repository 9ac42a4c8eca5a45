// What the device found out about the network around it: agent/api, Netcheck.

import type { Helper } from './status'

export type Door = {
  transport: string
  family: string
  at: string
  mapped: boolean
  reachable: boolean
  proof: string
  knock_unix_ms: number
  test_unix_ms: number
  missed: number
}

export type Mapping = { method: string; transport: string; internal: string; external: string; left_s: number }

export type Router = {
  address: string
  name: string
  settled: boolean
  outcomes: Record<string, string>
  mappings: Mapping[]
}

export type Netcheck = {
  verdict: string
  doubt: boolean
  nat: { mapping: string; filtering: string }
  public: string
  public_ipv6: string
  candidates: string[]
  helpers: Helper[]
  doors: Door[]
  ports: { preserved: boolean; delta: number; seen: number[]; hairpin: string; lifetime_s: number }
  router: Router
}

// parseNetcheck reads an answer; absent lists are empty ones, as are those of
// an older device that does not have them at all.
export function parseNetcheck(text: string): Netcheck {
  const n = JSON.parse(text)
  const router = n.router ?? {}
  return {
    ...n,
    doubt: n.doubt === true,
    public: n.public ?? '',
    public_ipv6: n.public_ipv6 ?? '',
    candidates: n.candidates ?? [],
    helpers: n.helpers ?? [],
    doors: n.doors ?? [],
    ports: { preserved: false, delta: 0, seen: [], hairpin: 'unknown', lifetime_s: 0, ...n.ports },
    router: {
      ...router,
      address: router.address ?? '',
      name: router.name ?? '',
      outcomes: router.outcomes ?? {},
      mappings: router.mappings ?? [],
    },
  }
}

const patienceMS = 5000

// netcheck asks the device; null if it does not answer in time.
export async function netcheck(): Promise<Netcheck | null> {
  try {
    const answer = await fetch('/api/v1/netcheck', { signal: AbortSignal.timeout?.(patienceMS) })
    return answer.ok ? parseNetcheck(await answer.text()) : null
  } catch {
    return null
  }
}

// insideOf is the address to forward a port to, "192.168.1.23:41641": that of
// the mapping of the UDP port, else the own IPv4 address nearest to the
// router's; '' if none is known, or no router to choose between several by.
export function insideOf(n: Netcheck): string {
  const mapped = mappingOf(n)?.internal ?? ''
  if (mapped && !mapped.startsWith('0.0.0.0:')) return mapped
  const router = ipv4(n.router.address)
  const near = (host: string) => commonBits(ipv4(host) ?? 0, router)
  const hosts = n.candidates.flatMap((c) => /^host (\d+(?:\.\d+){3}):\d+$/.test(c) ? [c.slice('host '.length)] : [])
  if (router === undefined && hosts.length > 1) return ''
  return hosts.reduce((best, one) => best === '' || near(one.split(':')[0]!) > near(best.split(':')[0]!) ? one : best, '')
}

// mappingOf is the mapping of the UDP port by IPv4.
export function mappingOf(n: Netcheck): Mapping | undefined {
  return n.router.mappings.find((m) => m.transport === 'udp' && !m.internal.startsWith('['))
}

function ipv4(host: string): number | undefined {
  const m = /^(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(host)
  return m ? m.slice(1).reduce((sum, part) => sum * 256 + Number(part), 0) : undefined
}

const commonBits = (a: number, b: number | undefined) => b === undefined ? 0 : Math.clz32((a ^ b) >>> 0)
