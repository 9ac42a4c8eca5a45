// The digest of everything the page is built from. TestDistIsUpToDate in
// agent/console computes the same one; change both together.
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const files = ['.npmrc', 'index.html', 'package-lock.json', 'package.json', 'tsconfig.json', 'vite.config.ts']
const folders = ['build', 'src']

function walk(root, folder) {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((e) => {
    const name = folder + '/' + e.name
    return e.isDirectory() ? walk(root, name) : [name]
  })
}

export function sourcesDigest(root) {
  const names = [...files, ...folders.flatMap((f) => walk(root, f))].sort((a, b) => (a < b ? -1 : 1))
  const sum = createHash('sha256')
  for (const name of names) {
    const data = readFileSync(join(root, name))
    sum.update(`${name}\n${data.length}\n`).update(data)
  }
  return sum.digest('hex')
}
