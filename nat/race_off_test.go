//go:build !race

package nat

const raceDetector = false
