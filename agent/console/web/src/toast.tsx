// One sentence at a time at the bottom of the page, with Undo where something
// can be taken back.

import type { ComponentChildren } from 'preact'
import { useCallback, useEffect, useRef, useState } from 'preact/hooks'
import { words } from './words'

const plainMS = 6000
const undoMS = 10_000

export type Toast = {
  say: ComponentChildren
  // undo takes back what was done, or keeps it from being done.
  undo?: () => void
  // after does it, once it can no longer be taken back: when the time is over,
  // the next sentence comes, or the page is left.
  after?: () => void
}

// useToast returns what is shown and how to say the next.
export function useToast() {
  const [at, set] = useState<Toast | null>(null)
  const current = useRef<Toast | null>(null)
  const show = useCallback((next: Toast | null) => {
    const was = current.current
    current.current = next
    set(next)
    was?.after?.()
  }, [])
  useEffect(() => {
    if (!at) return
    const timer = setTimeout(() => show(null), at.undo ? undoMS : plainMS)
    return () => clearTimeout(timer)
  }, [at])
  useEffect(() => {
    const leave = () => show(null)
    addEventListener('pagehide', leave)
    return () => {
      removeEventListener('pagehide', leave)
      leave()
    }
  }, [])
  const undo = () => {
    const was = current.current
    current.current = null
    set(null)
    was?.undo?.()
  }
  const toast = (
    <div class="toasts" role="status">
      {at && <div class="toast"><span>{at.say}</span>{at.undo && <UndoButton key={current.current} undo={undo} />}</div>}
    </div>
  )
  return { toast, show }
}

// UndoButton takes the focus if what had it is gone, and gives it to the
// page's heading when its time is over.
function UndoButton({ undo }: { undo: () => void }) {
  const ref = useRef<HTMLButtonElement>(null)
  useEffect(() => {
    const button = ref.current
    const timer = setTimeout(() => { if (document.activeElement === document.body) button?.focus() })
    return () => {
      clearTimeout(timer)
      if (document.activeElement === button) focusOn('main')
    }
  }, [])
  return <button type="button" class="btn" ref={ref} onClick={undo}>{words.undo}</button>
}

// focusOn moves the focus to a part of the page, without scrolling.
export function focusOn(id: string) {
  document.getElementById(id)?.focus({ preventScroll: true })
}
