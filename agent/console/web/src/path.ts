// From a contact's path to its badge.

import type { Contact } from './status'
import { hostPort } from './verdict'

export type PathKind = 'direct' | 'relay' | 'home' | 'looking' | 'off' | 'blocked'

export function pathKind(c: Contact): PathKind {
  if (c.blocked) return 'blocked'
  if (!c.online) return 'off'
  if (c.path === 'direct') return isSameHome(c) ? 'home' : 'direct'
  if (c.path === 'relay' && c.reason !== 'trying') return 'relay'
  return 'looking'
}

// isSameHome: both ends are addresses of their own hosts, and private ones.
function isSameHome(c: Contact): boolean {
  return [c.local, c.remote].every((end) => {
    const [kind, address = ''] = end.split(' ')
    return kind === 'host' && isPrivate(hostPort(address).host)
  })
}

// isPrivate knows RFC 1918, RFC 4193, loopback and link-local.
export function isPrivate(host: string): boolean {
  return /^(10\.|127\.|169\.254\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.)/.test(host)
    || host === '::1' || /^(f[cd]|fe[89ab])[0-9a-f:]/i.test(host)
}
