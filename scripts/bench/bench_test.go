package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func runs(link, mode string, seconds ...float64) (rs []Result) {
	for i, s := range seconds {
		total := time.Duration(s * float64(time.Second))
		rs = append(rs, Result{Link: link, Mode: mode, Round: i + 1, Total: total, CPU: 2 * total, Wire: uint64(i)})
	}
	return rs
}

func TestSummarize(t *testing.T) {
	list := summarize(append(runs("1g", "auto", 3, 9, 1), runs("1g", "qemu-zstd", 4, 2)...))
	if len(list) != 2 || list[0].Mode != "auto" || list[1].Mode != "qemu-zstd" {
		t.Fatalf("summaries: %+v", list)
	}
	a := list[0]
	if a.Runs != 3 || a.Total != 3*time.Second || a.TotalMin != time.Second || a.TotalMax != 9*time.Second || a.Wire != 1 {
		t.Errorf("auto: %+v", a)
	}
	if list[1].Total != 2*time.Second {
		t.Errorf("the lower of two is %v", list[1].Total)
	}
}

// Each bar is missed when its figure is just above it, and held at it.
func TestBars(t *testing.T) {
	for _, c := range []struct {
		name    string
		results [][]Result
		missed  bool
	}{
		{"slow link, held", [][]Result{runs("1g", "auto", 0.93), runs("1g", "qemu-zstd", 1), runs("1g", "qemu-plain", 5)}, false},
		{"slow link", [][]Result{runs("1g", "auto", 0.94), runs("1g", "qemu-zstd", 1)}, true},
		{"fast link, held", [][]Result{runs("10g", "auto", 1), runs("10g", "qemu-plain", 1)}, false},
		{"fast link", [][]Result{runs("10g", "auto", 1.01), runs("10g", "qemu-plain", 1)}, true},
		{"own, held", [][]Result{runs("unshaped", "auto", 1.03), runs("unshaped", "off", 1), runs("unshaped", "auto-tls", 0.5)}, false},
		{"own", [][]Result{runs("unshaped", "auto", 1.04), runs("unshaped", "off", 1)}, true},
		{"tls", [][]Result{runs("unshaped", "auto", 1), runs("unshaped", "auto-tls", 1.26)}, true},
		{"cpu", [][]Result{runs("10g", "auto", 1.21), runs("10g", "qemu-multifd", 1), runs("10g", "qemu-plain", 9)}, true},
	} {
		var all []Result
		for _, rs := range c.results {
			all = append(all, rs...)
		}
		bars := checkBars(summarize(all), nil)
		if len(bars) == 0 || bars[0].missed() != c.missed {
			t.Errorf("%s: %v", c.name, bars)
		}
	}
}

func TestWorstBarIsNamedLast(t *testing.T) {
	all := append(runs("1g", "auto", 2), runs("1g", "qemu-zstd", 1)...)
	all = append(all, append(runs("10g", "auto", 3), runs("10g", "qemu-zstd", 1)...)...)
	var out bytes.Buffer
	if missed := printBars(&out, checkBars(summarize(all), nil)); missed != 2 {
		t.Errorf("%d bars are missed, want 2", missed)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "worst: ") || !strings.Contains(last, "10 Gbit/s") || !strings.HasSuffix(last, "MISSED") {
		t.Errorf("last line: %q", last)
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	printTable(&out, summarize(append(runs("1g", "auto", 2), runs("1g", "qemu-zstd", 4)...)), links[:1])
	if text := out.String(); !strings.Contains(text, "| xenferry auto      |     2.00 |    2.00-2.00 |         0.50 |") {
		t.Errorf("table: %s", text)
	}
}

func TestLastReport(t *testing.T) {
	report, err := lastReport(bytes.NewBufferString(`{"event":"phase","phase":"copy"}
{"event":"end","report":{"total_ns":5}}
`))
	if err != nil || report.Total != 5 {
		t.Errorf("report %+v, %v", report, err)
	}
	for _, text := range []string{"", "{}", "not JSON"} {
		if _, err := lastReport(bytes.NewBufferString(text)); err == nil {
			t.Errorf("%q passed for a report", text)
		}
	}
}

func TestCompareFindsChange(t *testing.T) {
	dir := t.TempDir()
	img := &memoryImage{mib: 1, mem: make([]byte, 1<<20)}
	img.mem[70000] = 7
	write := func(name string, mem []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, mem, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := img.compare(write("same", img.mem)); err != nil {
		t.Error(err)
	}
	if err := img.compare(write("zero", make([]byte, 1<<20))); err == nil || !strings.Contains(err.Error(), "page 0x11") {
		t.Errorf("a lost page: %v", err)
	}
	if err := img.compare(write("short", img.mem[:4096])); err == nil {
		t.Error("a short file passed")
	}
}

func TestOptionsFromEnvironment(t *testing.T) {
	t.Setenv("ROUNDS", "")
	if n, err := number("ROUNDS", 5, 10); n != 5 || err != nil {
		t.Errorf("default: %d, %v", n, err)
	}
	for _, bad := range []string{"0", "11", "x", "-1"} {
		t.Setenv("ROUNDS", bad)
		if _, err := number("ROUNDS", 5, 10); err == nil {
			t.Errorf("ROUNDS=%s passed", bad)
		}
	}
	t.Setenv("LINKS", "1g, 10g")
	if l := listed("LINKS"); len(l) != 2 || l[1] != "10g" {
		t.Errorf("LINKS: %q", l)
	}
}

// What a killed benchmark left goes away; what a running one uses stays.
func TestRemoveLeftovers(t *testing.T) {
	dir := t.TempDir()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	for name, stays := range map[string]bool{
		fmt.Sprintf("%s%d-1", dirPrefix, dead.Process.Pid): false,
		fmt.Sprintf("%s%d-1", dirPrefix, os.Getpid()):      true,
		dirPrefix + "x-1": true,
		"other-1-1":       true,
	} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		removeLeftovers(dir)
		if _, err := os.Stat(path); (err == nil) != stays {
			t.Errorf("%s: %v, should stay: %v", name, err, stays)
		}
	}
}
