// Signs on a 20 × 20 grid, stroke 1.6, currentColor. Beside a word they are
// hidden from screen readers.

const paths = {
  home: 'M3 9.5 10 3.5l7 6V16a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1zM8 17v-5h4v5',
  people: 'M2.5 10.5 7 6.5l4.5 4V16h-9zM9 6.2 12.5 3l5 4.5V14h-3',
  folder: 'M2.5 5.5a1 1 0 0 1 1-1h4l2 2h7a1 1 0 0 1 1 1V15a1 1 0 0 1-1 1h-13a1 1 0 0 1-1-1z',
  work: 'M7 5.5h6A1.5 1.5 0 0 1 14.5 7v6a1.5 1.5 0 0 1-1.5 1.5H7A1.5 1.5 0 0 1 5.5 13V7A1.5 1.5 0 0 1 7 5.5zM8 2.5v3M12 2.5v3M8 14.5v3M12 14.5v3M2.5 8h3M2.5 12h3M14.5 8h3M14.5 12h3',
  up: 'M10 16V4M5.5 8.5 10 4l4.5 4.5',
  down: 'M10 4v12M5.5 11.5 10 16l4.5-4.5',
  relay: 'M1.7 14a1.8 1.8 0 1 0 3.6 0 1.8 1.8 0 1 0-3.6 0M14.7 14a1.8 1.8 0 1 0 3.6 0 1.8 1.8 0 1 0-3.6 0M7.8 5a2.2 2.2 0 1 0 4.4 0 2.2 2.2 0 1 0-4.4 0M4.6 12.5 8.5 7M11.5 7l3.9 5.5',
  box: 'M4 9h12a1.5 1.5 0 0 1 1.5 1.5v3A1.5 1.5 0 0 1 16 15H4a1.5 1.5 0 0 1-1.5-1.5v-3A1.5 1.5 0 0 1 4 9zM6 12h.01M9 12h.01M6 9V4M14 9V4',
  copy: 'M8.5 7h7A1.5 1.5 0 0 1 17 8.5v7a1.5 1.5 0 0 1-1.5 1.5h-7A1.5 1.5 0 0 1 7 15.5v-7A1.5 1.5 0 0 1 8.5 7zM13 7V4.5A1.5 1.5 0 0 0 11.5 3h-7A1.5 1.5 0 0 0 3 4.5v7A1.5 1.5 0 0 0 4.5 13H7',
  qr: 'M3 3h5v5H3zM12 3h5v5h-5zM3 12h5v5H3zM12 12h2v2h-2zM16 16h1M12 17h1M17 12v1',
  check: 'm4 10.5 4 4 8-9',
  turn: 'M17 10a7 7 0 1 1-2-4.9',
  open: 'm5 8 5 5 5-5',
  x: 'm5 5 10 10M15 5 5 15',
}

export function Sign({ of, class: extra = '' }: { of: keyof typeof paths; class?: string }) {
  return <svg class={'i ' + extra} viewBox="0 0 20 20" aria-hidden="true"><path d={paths[of]} /></svg>
}

const housePath = 'M20 4.5 36 17.5V34a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2V17.5z'

// House is a contact: its first letter inside, lit while on-line.
export function House({ letter, lit }: { letter: string; lit: boolean }) {
  return (
    <svg class={lit ? 'house lit' : 'house'} viewBox="0 0 40 40" aria-hidden="true">
      <path d={housePath} />
      {letter && <text x="20" y="29">{letter}</text>}
    </svg>
  )
}

// Tile is one of the owner's own devices.
export function Tile({ lit }: { lit: boolean }) {
  return <span class={lit ? 'tile lit' : 'tile'}><Sign of="box" /></span>
}

// letterOf is the first letter or digit of a name, upper case.
export function letterOf(name: string): string {
  return (/[\p{L}\p{N}]/u.exec(name)?.[0] ?? '?').toUpperCase()
}
