import { render } from 'preact'
import { App } from './app'

const root = document.getElementById('app')!
root.textContent = '' // the first paint's frame gives way to the same one, alive
render(<App />, root)
