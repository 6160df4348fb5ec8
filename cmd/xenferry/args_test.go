package main

import (
	"strings"
	"testing"
)

func TestFlagsFirst(t *testing.T) {
	for _, tc := range [][2]string{
		{"", ""},
		{"xf", "xf"},
		{"xf list", "xf list"},
		{"xf help migrate", "xf help migrate"},
		{"xf migrate db1 host2 --json", "xf migrate --json -- db1 host2"},
		{"xf -c sim:a migrate db1 --compress off host2 -p", "xf -c sim:a migrate --compress off -p -- db1 host2"},
		{"xf --connect=sim:a migrate db1 --compress=off host2", "xf --connect=sim:a migrate --compress=off -- db1 host2"},
		{"xf resolve ID --resume --yes-i-know host2", "xf resolve --resume --yes-i-know host2 -- ID"},
		{"xf save -cD db1 -", "xf save -cD -- db1 -"},
		{"xf save db1 -zzstd x", "xf save --codec=zstd -- db1 x"},
		{"xf save -z=zlib db1 x", "xf save --codec=zlib -- db1 x"},
		{"xf save -zc -z db1 x", "xf save -zc -z -- db1 x"},
		{"xf save -zs2 db1 x", "xf save --codec=s2 -- db1 x"},
		{"xf migrate db1 -ps ssh host2", "xf migrate -ps ssh -- db1 host2"},
		{"xf migrate -s '' -- -db1 --json", "xf migrate -s '' -- -db1 --json"},
		{"xf save db1 -- -c", "xf save -- db1 -c"},
		{"xf sim create a --name db1", "xf sim create --name db1 -- a"},
		{"xf migrate --nonsense db1 host2", "xf migrate --nonsense -- db1 host2"},
		{"xf nonsense --json db1", "xf nonsense --json db1"},
		{"xf migrate db1 host2 --help", "xf migrate --help -- db1 host2"},
	} {
		got, err := flagsFirst(newApp(), strings.Fields(tc[0]))
		if err != nil || strings.Join(got, " ") != tc[1] {
			t.Errorf("%s: %s (%v), want %s", tc[0], strings.Join(got, " "), err, tc[1])
		}
	}
	if _, err := flagsFirst(newApp(), strings.Fields("xf migrate db1 host2 --compress")); exitCode(err) != exitUsage {
		t.Errorf("a flag without its value: %v", err)
	}
}
