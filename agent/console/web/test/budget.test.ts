import { readdirSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const dist = fileURLToPath(new URL('../../dist/', import.meta.url))
const kB = 1000

// Compressed; the QR maker is part of the first script. Only the page that is
// opened later comes by itself.
const later = /^page-/
const budgets: [RegExp, number][] = [
  [/^index\.html/, 2 * kB],
  [/\.css\.gz$/, 8 * kB],
  [/^index-.*\.js\.gz$/, 36 * kB],
  [later, 8 * kB],
]
const firstLoad = 60 * kB
const together = 100 * kB

test('the page stays within its budget', () => {
  const files = readdirSync(dist, { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith('.gz'))
    .map((f) => ({ name: basename(f), size: statSync(dist + f).size }))
  for (const f of files) console.log(`${String(f.size).padStart(7)} bytes  ${f.name}`)
  const sum = (of: typeof files) => of.reduce((n, f) => n + f.size, 0)
  const first = sum(files.filter((f) => !later.test(f.name)))
  console.log(`${String(first).padStart(7)} bytes  first load, of ${firstLoad}`)
  console.log(`${String(sum(files)).padStart(7)} bytes  together, of ${together}`)
  expect(first).toBeLessThanOrEqual(firstLoad)
  expect(sum(files)).toBeLessThanOrEqual(together)
  for (const [kind, limit] of budgets) {
    const of = files.filter((f) => kind.test(f.name))
    expect(of.length, String(kind)).toBeGreaterThan(0)
    expect(sum(of), String(kind)).toBeLessThanOrEqual(limit)
  }
})
