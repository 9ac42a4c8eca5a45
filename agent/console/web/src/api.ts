// Requests that the page makes of the device beside the live status. What is
// refused arrives as Trouble, with a line to show.

import type { Contact, Member } from './status'
import { words } from './words'

export class Trouble extends Error {
  constructor(line: string, readonly status: number, readonly code: string) {
    super(line)
  }
}

const longestLine = 300

// ask sends a request and reads its answer.
async function ask<T>(method: string, path: string, body?: unknown, keepalive = false): Promise<T> {
  let answer: Response
  try {
    answer = await fetch('/api/v1/' + path, {
      method,
      keepalive,
      headers: { 'X-Porchlight': '1', ...(body !== undefined && { 'Content-Type': 'application/json' }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    })
  } catch {
    throw new Trouble(words.trouble.away, 0, 'away')
  }
  const said = await answer.json().catch(() => null)
  if (!answer.ok) throw troubleOf(answer.status, said)
  return said as T
}

// troubleOf reads a refusal: of the interface, {error: line, code}, or of the
// console before it, {error: code, message: line}.
export function troubleOf(status: number, said: unknown): Trouble {
  const { error, code, message } = (said ?? {}) as Record<string, unknown>
  const line = typeof message === 'string' ? message : typeof error === 'string' ? error : ''
  const name = typeof code === 'string' ? code : typeof message === 'string' && typeof error === 'string' ? error : ''
  return new Trouble(line ? sentence(line) : words.trouble.odd, status, name)
}

// sentence makes an error of the interface, lower case and without an end, one.
function sentence(line: string): string {
  const short = line.length > longestLine ? line.slice(0, longestLine - 1) + '…' : line
  return short.charAt(0).toUpperCase() + short.slice(1) + (/[.?…]$/.test(short) ? '' : '.')
}

export type Devices = { owner: string; link: string; holds_key: boolean; devices: Member[] }

export type Invitation = { code: string; link: string; expires_s: number }

export type Message = { id: string; peer: string; out: boolean; text: string; unix_ms: number; state: string }

export type Service = { name: string; network: string; target: string; to: string[] | null }

// The interface finds contacts by name or address. Addresses are safe in a
// path, which a name such as ".." is not.
const contact = (c: Pick<Contact, 'address'>) => 'contacts/' + encodeURIComponent(c.address)
const request = (address: string) => 'requests/' + encodeURIComponent(address)
const list = <T>(method: string, path: string) => ask<T[] | null>(method, path).then((all) => all ?? [])
const devicesOf = (d: Devices): Devices => ({ ...d, devices: d.devices ?? [] })

// peerOf names a contact to the interface.
export const peerOf = (c: Pick<Contact, 'name' | 'address'>) => c.name || c.address

export const api = {
  accept: (address: string, name: string, role: string) => ask('POST', request(address) + '/accept', { name, role }),
  refuse: (address: string) => ask('DELETE', request(address), undefined, true),
  add: (link: string, name: string, role: string, note: string) => ask('POST', 'contacts', { link, name, role, note }),
  remove: (c: Pick<Contact, 'address'>) => ask('DELETE', contact(c), undefined, true),
  block: (c: Pick<Contact, 'address'>, blocked: boolean) => ask('PUT', contact(c) + '/blocked', blocked),
  hide: (c: Pick<Contact, 'address'>, hidden: boolean) => ask('PUT', contact(c) + '/hidden', hidden),
  devices: () => ask<Devices>('GET', 'devices').then(devicesOf),
  invite: () => ask<Invitation>('POST', 'devices/invite', {}),
  endInvitation: () => ask('DELETE', 'devices/invite'),
  join: (code: string) => ask<Devices>('POST', 'devices/join', { code }).then(devicesOf),
  revoke: (address: string) => ask('DELETE', 'devices/' + encodeURIComponent(address)),
  messages: (peer: string) => list<Message>('GET', 'messages?limit=100&peer=' + encodeURIComponent(peer)),
  send: (peer: string, text: string) => ask<Message>('POST', 'messages', { peer, text }),
  read: (peer: string) => ask('PUT', 'messages/read', { peer }),
  services: () => list<Service>('GET', 'services'),
}
