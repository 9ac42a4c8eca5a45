//go:build race

package nat

// raceDetector makes everything some twenty times slower.
const raceDetector = true
