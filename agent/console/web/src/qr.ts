// QR codes (ISO/IEC 18004) of text: byte mode, error level L, the smallest
// version that fits, the mask of least penalty. Up to 2953 bytes.

// Per version 1 to 40 at level L: check bytes a block, and blocks.
const checkBytes = [7, 10, 15, 20, 26, 18, 20, 24, 30, 18, 20, 24, 26, 30, 22, 24, 28, 30, 28, 28, 28, 28, 30, 30, 26, 28, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30]
const blockCount = [1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 4, 6, 6, 6, 6, 7, 8, 8, 9, 9, 10, 12, 12, 12, 13, 14, 15, 16, 17, 18, 19, 19, 20, 21, 22, 24, 25]

// modulesFor is the room for data and check bits in a version, in bits.
function modulesFor(version: number): number {
  let n = (16 * version + 128) * version + 64
  if (version >= 2) {
    const marks = Math.floor(version / 7) + 2
    n -= (25 * marks - 10) * marks - 55
    if (version >= 7) n -= 36
  }
  return n
}

const dataBytes = (version: number) =>
  (modulesFor(version) >> 3) - checkBytes[version - 1]! * blockCount[version - 1]!

// Multiplication in GF(256) with the polynomial 0x11d.
function times(a: number, b: number): number {
  let z = 0
  for (let i = 7; i >= 0; i--) {
    z = (z << 1) ^ ((z >>> 7) * 0x11d)
    z ^= ((b >>> i) & 1) * a
  }
  return z
}

function generator(degree: number): number[] {
  const g = new Array<number>(degree).fill(0)
  g[degree - 1] = 1
  let root = 1
  for (let i = 0; i < degree; i++) {
    for (let j = 0; j < degree; j++) g[j] = times(g[j]!, root) ^ (g[j + 1] ?? 0)
    root = times(root, 2)
  }
  return g
}

function remainder(data: number[], gen: number[]): number[] {
  const rest = new Array<number>(gen.length).fill(0)
  for (const b of data) {
    const factor = b ^ rest.shift()!
    rest.push(0)
    gen.forEach((g, i) => (rest[i]! ^= times(g, factor)))
  }
  return rest
}

// payload is mode, length, text and padding.
function payload(text: Uint8Array, version: number): number[] {
  const bits: number[] = []
  const put = (value: number, n: number) => {
    for (let i = n - 1; i >= 0; i--) bits.push((value >>> i) & 1)
  }
  const room = dataBytes(version) * 8
  put(4, 4)
  put(text.length, version < 10 ? 8 : 16)
  text.forEach((b) => put(b, 8))
  put(0, Math.min(4, room - bits.length))
  put(0, -bits.length & 7)
  for (let pad = 0xec; bits.length < room; pad ^= 0xec ^ 0x11) put(pad, 8)
  const out: number[] = []
  bits.forEach((bit, i) => (out[i >> 3] = ((out[i >> 3] ?? 0) << 1) | bit))
  return out
}

// interleave cuts data into blocks, adds check bytes and mixes them.
function interleave(data: number[], version: number): number[] {
  const blocks = blockCount[version - 1]!
  const check = checkBytes[version - 1]!
  const total = modulesFor(version) >> 3
  const short = Math.floor(total / blocks) - check
  const longFrom = blocks - (total % blocks)
  const gen = generator(check)
  const parts: number[][] = []
  const checks: number[][] = []
  for (let i = 0, at = 0; i < blocks; i++) {
    const part = data.slice(at, (at += short + (i < longFrom ? 0 : 1)))
    parts.push(part)
    checks.push(remainder(part, gen))
  }
  const out: number[] = []
  for (let i = 0; i <= short; i++) parts.forEach((p) => i < p.length && out.push(p[i]!))
  for (let i = 0; i < check; i++) checks.forEach((c) => out.push(c[i]!))
  return out
}

class Grid {
  readonly dark: boolean[][]
  readonly fixed: boolean[][]

  constructor(readonly size: number) {
    const blank = () => Array.from({ length: size }, () => new Array<boolean>(size).fill(false))
    this.dark = blank()
    this.fixed = blank()
  }

  set(x: number, y: number, on: boolean) {
    if (x < 0 || y < 0 || x >= this.size || y >= this.size) return
    this.dark[y]![x] = on
    this.fixed[y]![x] = true
  }

  square(cx: number, cy: number, reach: number, lit: (distance: number) => boolean) {
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        this.set(cx + dx, cy + dy, lit(Math.max(Math.abs(dx), Math.abs(dy))))
      }
    }
  }
}

function alignmentAt(version: number, size: number): number[] {
  if (version === 1) return []
  const marks = Math.floor(version / 7) + 2
  const step = version === 32 ? 26 : Math.ceil((version * 4 + 4) / (marks * 2 - 2)) * 2
  const at = [6]
  for (let i = marks - 2; i >= 0; i--) at.push(size - 7 - i * step)
  return at
}

function drawPatterns(g: Grid, version: number) {
  const end = g.size - 1
  for (let i = 0; i < g.size; i++) {
    g.set(6, i, i % 2 === 0)
    g.set(i, 6, i % 2 === 0)
  }
  for (const [x, y] of [[3, 3], [end - 3, 3], [3, end - 3]] as const) g.square(x, y, 4, (d) => d !== 2 && d !== 4)
  const at = alignmentAt(version, g.size)
  const last = at.length - 1
  at.forEach((x, i) => at.forEach((y, j) => {
    const corner = (i === 0 && j === 0) || (i === 0 && j === last) || (i === last && j === 0)
    if (!corner) g.square(x, y, 2, (d) => d !== 1)
  }))
  if (version >= 7) drawVersion(g, version)
}

function drawVersion(g: Grid, version: number) {
  let rest = version
  for (let i = 0; i < 12; i++) rest = (rest << 1) ^ ((rest >>> 11) * 0x1f25)
  const bits = (version << 12) | rest
  for (let i = 0; i < 18; i++) {
    const on = ((bits >>> i) & 1) === 1
    const a = g.size - 11 + (i % 3)
    const b = Math.floor(i / 3)
    g.set(a, b, on)
    g.set(b, a, on)
  }
}

function drawFormat(g: Grid, mask: number) {
  const data = (1 << 3) | mask // level L is 01
  let rest = data
  for (let i = 0; i < 10; i++) rest = (rest << 1) ^ ((rest >>> 9) * 0x537)
  const bits = ((data << 10) | rest) ^ 0x5412
  const bit = (i: number) => ((bits >>> i) & 1) === 1
  for (let i = 0; i <= 5; i++) g.set(8, i, bit(i))
  g.set(8, 7, bit(6))
  g.set(8, 8, bit(7))
  g.set(7, 8, bit(8))
  for (let i = 9; i < 15; i++) g.set(14 - i, 8, bit(i))
  for (let i = 0; i < 8; i++) g.set(g.size - 1 - i, 8, bit(i))
  for (let i = 8; i < 15; i++) g.set(8, g.size - 15 + i, bit(i))
  g.set(8, g.size - 8, true)
}

function drawData(g: Grid, data: number[]) {
  let i = 0
  for (let right = g.size - 1; right >= 1; right -= 2) {
    if (right === 6) right = 5
    for (let step = 0; step < g.size; step++) {
      const up = ((right + 1) & 2) === 0
      const y = up ? g.size - 1 - step : step
      for (const x of [right, right - 1]) {
        if (g.fixed[y]![x] || i >= data.length * 8) continue
        g.dark[y]![x] = ((data[i >> 3]! >>> (7 - (i & 7))) & 1) === 1
        i++
      }
    }
  }
}

const masks: ((x: number, y: number) => boolean)[] = [
  (x, y) => (x + y) % 2 === 0,
  (_, y) => y % 2 === 0,
  (x) => x % 3 === 0,
  (x, y) => (x + y) % 3 === 0,
  (x, y) => (Math.floor(x / 3) + Math.floor(y / 2)) % 2 === 0,
  (x, y) => ((x * y) % 2) + ((x * y) % 3) === 0,
  (x, y) => (((x * y) % 2) + ((x * y) % 3)) % 2 === 0,
  (x, y) => (((x + y) % 2) + ((x * y) % 3)) % 2 === 0,
]

function applyMask(g: Grid, mask: number) {
  g.dark.forEach((row, y) => row.forEach((on, x) => {
    if (!g.fixed[y]![x] && masks[mask]!(x, y)) row[x] = !on
  }))
}

// penalty rates what scanners dislike: runs, squares, false finders, imbalance.
function penalty(g: Grid): number {
  const n = g.size
  let sum = 0
  let dark = 0
  const lines = [g.dark, g.dark.map((_, x) => g.dark.map((row) => row[x]!))]
  for (const grid of lines) {
    for (const row of grid) {
      const text = row.map((on) => (on ? '1' : '0')).join('')
      for (const run of text.match(/1{5,}|0{5,}/g) ?? []) sum += run.length - 2
      for (let i = 0; i + 11 <= n; i++) {
        const part = text.slice(i, i + 11)
        if (part === '10111010000' || part === '00001011101') sum += 40
      }
    }
  }
  for (let y = 0; y < n; y++) {
    for (let x = 0; x < n; x++) {
      const on = g.dark[y]![x]
      if (on) dark++
      if (x && y && on === g.dark[y]![x - 1] && on === g.dark[y - 1]![x] && on === g.dark[y - 1]![x - 1]) sum += 3
    }
  }
  return sum + Math.floor(Math.abs((dark * 20) / (n * n) - 10)) * 10
}

// qr returns the rows of the code, dark = true, or null if text is too long.
export function qr(text: string): boolean[][] | null {
  const raw = new TextEncoder().encode(text)
  let version = 1
  while (version <= 40 && dataBytes(version) * 8 < 4 + (version < 10 ? 8 : 16) + raw.length * 8) version++
  if (version > 40) return null
  const g = new Grid(version * 4 + 17)
  drawPatterns(g, version)
  drawFormat(g, 0) // reserves its place
  drawData(g, interleave(payload(raw, version), version))
  let best = 0
  let least = Infinity
  for (let mask = 0; mask < 8; mask++) {
    applyMask(g, mask)
    drawFormat(g, mask)
    const p = penalty(g)
    if (p < least) [best, least] = [mask, p]
    applyMask(g, mask) // twice is none
  }
  applyMask(g, best)
  drawFormat(g, best)
  return g.dark
}

// qrPath draws the dark modules as one SVG path, a rectangle a run.
export function qrPath(rows: boolean[][]): string {
  let d = ''
  rows.forEach((row, y) => {
    for (let x = 0; x < row.length; x++) {
      if (!row[x]) continue
      let n = 1
      while (row[x + n]) n++
      d += `M${x} ${y}h${n}v1h-${n}z`
      x += n
    }
  })
  return d
}
