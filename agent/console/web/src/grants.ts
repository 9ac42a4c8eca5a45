// What a contact may do here, as the folders and services say.

import type { Service } from './api'
import type { Contact, Share } from './status'

export type Grants = { read: string[]; write: string[]; open: Service[] }

// grantsOf follows contacts.Book.Allows in the agent: everybody, friends (and
// the owner's own), the owner's own, or by name or address.
export function grantsOf(c: Contact, shares: Share[], services: Service[]): Grants {
  const may = (who: string[] | null) => !c.blocked && (who ?? []).some((w) =>
    w === 'everybody' || w === c.name || w === c.address
    || (w === 'me' && c.role === 'me') || (w === 'friends' && (c.role === 'friend' || c.role === 'me')))
  return {
    read: shares.filter((s) => may(s.read)).map((s) => s.name),
    write: shares.filter((s) => may(s.write)).map((s) => s.name),
    open: services.filter((s) => may(s.to)),
  }
}

// namedIn says whether something is given to a contact by its name.
export function namedIn(name: string, shares: Share[], services: Service[]): boolean {
  return shares.some((s) => s.read?.includes(name) || s.write?.includes(name)) || services.some((s) => s.to?.includes(name))
}

const longest = 40
const reserved = ['everybody', 'friends', 'me', 'nobody', 'none']

// suggest makes of what somebody calls themselves a name a contact can have,
// as contacts.checkName in the agent wants it; "" if nothing is left of it.
export function suggest(called: string, taken: string[]): string {
  const clean = called.normalize('NFC').replace(/['’]/g, '').replace(/[^\p{L}\p{M}\p{N}_.-]+/gu, '-').replace(/^[-.]+|-+$/g, '')
  const short = [...clean].slice(0, longest - 3).join('')
  if (!short || reserved.includes(short)) return ''
  for (let n = 1; n < 100; n++) {
    const name = n === 1 ? short : short + '-' + n
    if (!taken.includes(name)) return name
  }
  return ''
}
