// The page about people comes as a script of its own when it is first opened.

import { useEffect, useState } from 'preact/hooks'
import type { PageProps } from './people-page/page'
import { words } from './words'

type Part = typeof import('./people-page/page')

let loaded: Part | undefined

// PeoplePage loads the page, then shows it.
export function PeoplePage(props: PageProps) {
  const [part, set] = useState<Part | undefined>(loaded)
  const [failed, fail] = useState(false)
  useEffect(() => {
    if (!part) import('./people-page/page').then((p) => set(() => (loaded = p)), () => fail(true))
  }, [])
  if (part) return <part.PeoplePage {...props} />
  return (
    <>
      <div class="page-head"><h1>{words.contacts.page}</h1></div>
      {failed
        ? (
          <div class="panel empty" role="alert">
            <b>{words.trouble.list}</b>
            <button type="button" class="btn" onClick={() => location.reload()}>{words.again}</button>
          </div>
        )
        : <Ghosts rows={3} />}
    </>
  )
}

// Ghosts hold the place of rows that are being fetched.
export function Ghosts({ rows }: { rows: number }) {
  return (
    <ul class="rows ghosts" aria-busy="true" aria-label={words.contacts.loading}>
      {Array.from({ length: rows }, (_, i) => <li key={i}><i class="ghost pic" /><i class="ghost" /></li>)}
    </ul>
  )
}
