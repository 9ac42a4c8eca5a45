import { readdirSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const dist = fileURLToPath(new URL('../../dist/', import.meta.url))
const kB = 1000

// First load, compressed; the QR maker is part of the script.
const budgets: [RegExp, number][] = [
  [/^index\.html/, 2 * kB],
  [/\.css\.gz$/, 8 * kB],
  [/\.js\.gz$/, 36 * kB],
]
const together = 60 * kB

test('the first load stays within its budget', () => {
  const files = readdirSync(dist, { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith('.gz'))
    .map((f) => ({ name: basename(f), size: statSync(dist + f).size }))
  for (const f of files) console.log(`${String(f.size).padStart(7)} bytes  ${f.name}`)
  const sum = files.reduce((n, f) => n + f.size, 0)
  console.log(`${String(sum).padStart(7)} bytes  together, of ${together}`)
  expect(sum).toBeLessThanOrEqual(together)
  for (const [kind, limit] of budgets) {
    const of = files.filter((f) => kind.test(f.name))
    expect(of.length, String(kind)).toBeGreaterThan(0)
    expect(of.reduce((n, f) => n + f.size, 0), String(kind)).toBeLessThanOrEqual(limit)
  }
})
