package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// nameText is a guest's name for people. One that comes out of a file may have
// been made to look like more lines of ours.
func nameText(name string) string {
	if utf8.ValidString(name) && !strings.ContainsFunc(name, isHidden) {
		return name
	}
	return strconv.Quote(name)
}

func isHidden(r rune) bool { return !unicode.IsPrint(r) }

// errorText is an error for people: one line, nothing twice, without the words
// of Go's library.
func errorText(err error) string {
	text := err.Error()
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		text = strings.ReplaceAll(text, wrong.Error(), jsonText(wrong))
	}
	var lines []string
	for line := range strings.SplitSeq(text, "\n") { // of errors.Join, or of another program
		if line = lineText(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// lineText escapes what a terminal would act upon.
func lineText(line string) string {
	var b strings.Builder
	for _, r := range strings.TrimSpace(line) {
		switch {
		case r == '\t':
			b.WriteByte(' ')
		case isHidden(r):
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// jsonText says what is wrong with a value in JSON.
func jsonText(e *json.UnmarshalTypeError) string {
	where := strings.Trim(e.Field, ".")
	if where == "" {
		where = "the whole"
	}
	return fmt.Sprintf("%s, at byte %d of the JSON, is of the wrong kind: %s in place of %s", where, e.Offset, e.Value, jsonKind(e.Type))
}

func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String, reflect.Bool:
		return "a " + t.Kind().String()
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Float64:
		return "a number"
	}
	return "a whole number within its bounds"
}
