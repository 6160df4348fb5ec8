package xl

// Options of Open.
type Options struct {
	// LogLevel is the least level of libxl's own messages that goes to
	// standard error, as in xentoollog.h: 1 debug, 5 info, 7 warning, 8
	// error. 0 is none. Whatever it is, the text of an error of libxl is part
	// of the error that a method here returns.
	LogLevel int
}
