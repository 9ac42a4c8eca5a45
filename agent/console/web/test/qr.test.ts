import jsQR from 'jsqr'
import { expect, test } from 'vitest'
import { qr, qrPath } from '../src/qr'

// scan draws the code as a camera would see it and reads it with a library
// that shares nothing with the maker.
function scan(rows: boolean[][]): string | undefined {
  const scale = 3
  const quiet = 4
  const side = (rows.length + 2 * quiet) * scale
  const pixels = new Uint8ClampedArray(side * side * 4).fill(255)
  rows.forEach((row, y) => row.forEach((dark, x) => {
    if (!dark) return
    for (let dy = 0; dy < scale; dy++) {
      for (let dx = 0; dx < scale; dx++) {
        const at = (((y + quiet) * scale + dy) * side + (x + quiet) * scale + dx) * 4
        pixels.fill(0, at, at + 3)
      }
    }
  }))
  return jsQR(pixels, side, side)?.data
}

const link = 'porchlight:q7mz4tj2kaewx5hnvr3ob6dsy4pcgulf2ie5ywqa3hktn7vxob6mzrcd?at=44.128.0.7:41641&via='

// Lengths around the steps of version, block count and count field.
test.each([1, 17, 18, 78, 79, 106, 134, 135, 154, 192, 230, 231, 271, 321, 322, 425, 586, 718, 858, 1171])('a text of %d bytes is read back', (n) => {
  const text = link.repeat(20).slice(0, n)
  expect(scan(qr(text)!)).toBe(text)
})

test('letters beyond ASCII are read back', () => expect(scan(qr('Grüße · 灯')!)).toBe('Grüße · 灯'))

test('the smallest version is taken', () => {
  expect(qr('x'.repeat(17))).toHaveLength(21)
  expect(qr('x'.repeat(18))).toHaveLength(25)
  expect(qr('x'.repeat(2953))).toHaveLength(177)
})

test('a text that does not fit gives none', () => expect(qr('x'.repeat(2954))).toBeNull())

test('the path has a rectangle for each run', () => {
  expect(qrPath([[true, true, false, true], [false, false, false, true]])).toBe('M0 0h2v1h-2zM3 0h1v1h-1zM3 1h1v1h-1z')
})
