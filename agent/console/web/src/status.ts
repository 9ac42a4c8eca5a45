// The interface's data: see agent/api, whose field names these are.

export type Member = { address: string; name: string; online: boolean; last_seen_unix_ms: number; this: boolean }

export type Request = { address: string; name: string; note: string; link: string; received_unix_ms: number }

export type Contact = {
  name: string
  address: string
  role: string
  blocked: boolean
  hidden: boolean
  standing: string
  online: boolean
  devices: Member[]
  unread: number
  last_seen_unix_ms: number
  path: string
  local: string
  remote: string
  rtt_ms: number
  reason: string
  sent_bytes: number
  received_bytes: number
}

export type Helper = { address: string; name: string; online: boolean; rtt_ms: number; transport: string }

export type Transfer = {
  id: string
  name: string
  direction: string
  peer: string
  bytes: number
  total_bytes: number
  bytes_per_second: number
}

export type Share = { name: string; dir: string; read: string[] | null; write: string[] | null }

export type Work = { enabled: boolean; running: number; done: number; stopped: number; cpu_ms: number }

export type Traffic = { sent_bytes: number; received_bytes: number; relayed_bytes: number }

export type Status = {
  address: string
  name: string
  version: string
  reachability: string
  checked_unix_ms: number
  doubt?: boolean // absent where only the netcheck tells it
  nat: { mapping: string; filtering: string }
  listen: string
  public: string
  link: string
  rss_bytes: number
  uptime_ms: number
  owner: string
  contacts: Contact[]
  requests: Request[]
  helpers: Helper[]
  transfers: Transfer[]
  shares: Share[]
  work: Work
  traffic: Traffic
}

// parseStatus reads an event; the interface writes absent lists as null.
export function parseStatus(text: string): Status {
  const s = JSON.parse(text)
  const contact = (c: Partial<Contact>) => ({ ...c, devices: c.devices ?? [], unread: c.unread ?? 0 })
  return {
    ...s,
    owner: s.owner ?? '',
    contacts: (s.contacts ?? []).map(contact),
    requests: s.requests ?? [],
    helpers: s.helpers ?? [],
    transfers: s.transfers ?? [],
    shares: s.shares ?? [],
  }
}
