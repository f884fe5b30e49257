package strictyaml

import "strings"

// DidYouMean is the hint for a word that is not among the known ones.
func DidYouMean(name string, known []string) string {
	for _, k := range known {
		if strings.EqualFold(k, name) {
			return "fields are case-sensitive: did you mean " + k + "?"
		}
	}
	best, bestCost := "", 3
	for _, k := range known {
		if c := distance(strings.ToLower(name), strings.ToLower(k)); c < bestCost {
			best, bestCost = k, c
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "known here: " + strings.Join(known, ", ")
}

// distance is the edit distance of two short words.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return len(a) + len(b)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
