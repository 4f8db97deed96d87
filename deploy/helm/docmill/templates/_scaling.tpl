{{/*
Scaling of a group by the open shards of its lanes. The query counts no further than the greatest number of replicas
needs, so its cost does not grow with the backlog. Takes root, component and worker.
*/}}
{{- define "docmill.scaling" -}}
{{- $rule := .worker.autoscaling }}
{{- $lanes := "" }}
{{- if .worker.lanes }}
{{- $lanes = printf " WHERE lane IN ('%s')" (join "', '" .worker.lanes) }}
{{- end }}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ include "docmill.fullname" .root }}-{{ .component }}
  labels:
    {{- include "docmill.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    name: {{ include "docmill.fullname" .root }}-{{ .component }}
  minReplicaCount: {{ $rule.min }}
  maxReplicaCount: {{ $rule.max }}
  pollingInterval: {{ $rule.pollingSeconds }}
  cooldownPeriod: {{ $rule.cooldownSeconds }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleDown:
          stabilizationWindowSeconds: {{ $rule.stabilizationSeconds }}
          policies:
            - {type: Percent, value: 100, periodSeconds: 15}
  triggers:
    - type: postgresql
      metricType: AverageValue
      metadata:
        query: >-
          SELECT count(*) FROM (SELECT 1 FROM open_shards{{ $lanes }} LIMIT {{ mul $rule.max $rule.shardsPerReplica }}) AS open
        targetQueryValue: {{ $rule.shardsPerReplica | quote }}
        activationTargetQueryValue: "0"
      authenticationRef:
        name: {{ include "docmill.fullname" .root }}
{{- end }}
