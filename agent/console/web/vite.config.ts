import { defineConfig } from 'vite'

// The console is one script, a second for the page about people, one stylesheet
// and a few signs; build/pack.mjs compresses what this leaves in .build and
// puts it into ../dist.
export default defineConfig({
  base: '/',
  publicDir: false,
  esbuild: { jsx: 'automatic', jsxImportSource: 'preact', legalComments: 'none' },
  build: {
    outDir: '.build',
    emptyOutDir: true,
    target: 'es2021',
    assetsInlineLimit: 0, // the content policy knows no data: addresses
    cssCodeSplit: false,
    modulePreload: false,
    reportCompressedSize: false,
  },
})
