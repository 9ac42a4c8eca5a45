// The page about people: who asks, who is a contact and what they may do,
// messages, and the devices of the owner.

import { useEffect, useState } from 'preact/hooks'
import { api } from '../api'
import type { Service } from '../api'
import type { Desk } from '../desk'
import { Nobody } from '../people'
import { ShareCard } from '../share'
import type { Copy, Own } from '../share'
import { Sign } from '../signs'
import type { Contact, Status } from '../status'
import { words } from '../words'
import { AddForm } from './add'
import { Blocked } from './blocked'
import { Bring } from './bring'
import { ContactRow } from './contact'
import { OwnDevices } from './devices'
import { Requests } from './requests'
import { Talk } from './talk'

export type PageProps = { status: Status; own: Own; now: number; desk: Desk; copy: Copy; share: () => void }

const w = words.contacts

export function PeoplePage({ status: s, own, now, desk, copy, share }: PageProps) {
  const services = useServices()
  const others = s.contacts.filter((c) => !c.blocked)
  const people = others.filter((c) => c.role !== 'me')
  const peer = peerAmong(others, desk.begun.peer)
  // Whom the page begins with stays, also when another message comes.
  useEffect(() => { if (peer && !desk.begun.peer) desk.begin({ peer: peer.address }) }, [peer?.address])
  const row = (c: Contact) => <ContactRow key={c.address} of={c} status={s} services={services} now={now} desk={desk} />
  return (
    <>
      <div class="page-head">
        <h1>{w.page}</h1>
        <button type="button" class="btn main" onClick={share}><Sign of="qr" />{words.share.button}</button>
      </div>
      <Requests of={s.requests} contacts={s.contacts} now={now} desk={desk} />
      <div class="cols">
        <div class="stack">
          <section class="sec" aria-labelledby="h-contacts">
            <div class="sec-head"><h2 id="h-contacts" tabIndex={-1}>{w.title}</h2></div>
            {people.length === 0 ? <Nobody share={share} /> : <ul class="rows people">{people.map(row)}</ul>}
          </section>
          <AddForm desk={desk} />
          <OwnDevices status={s} now={now} desk={desk} row={row} />
          <Blocked of={s.contacts.filter((c) => c.blocked)} desk={desk} />
        </div>
        <div class="stack">
          {peer && <Talk key={peer.address} with={peer} now={now} desk={desk} />}
          <ShareCard own={own} copy={copy} enlarge={share} />
          <Bring now={now} desk={desk} copy={copy} />
        </div>
      </div>
    </>
  )
}

// peerAmong is whose messages are shown: who was chosen, else who wrote last
// of those not read, else the first.
export function peerAmong(contacts: Contact[], chosen: string): Contact | undefined {
  return contacts.find((c) => c.address === chosen) ?? contacts.find((c) => c.unread > 0)
    ?? contacts.find((c) => c.role !== 'me') ?? contacts[0]
}

// useServices asks once; what is served changes on other pages only.
function useServices(): Service[] {
  const [services, set] = useState<Service[]>([])
  useEffect(() => { api.services().then(set, () => {}) }, [])
  return services
}
