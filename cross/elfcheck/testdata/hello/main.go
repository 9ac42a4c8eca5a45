// Command hello is a program small enough to be built for every target in a
// test; the square root makes a hard-float build use the FPU.
package main

import "math"

var input = 2.5

func main() {
	println(math.Sqrt(input) * input)
}
